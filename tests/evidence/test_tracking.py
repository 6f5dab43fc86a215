"""TensorBoard and Weights & Biases: what a run logs is read back from real event files and a real
offline run; a resumed run goes on in both; a tracker that fails costs its own numbers alone."""

from __future__ import annotations

import json
import logging
import signal
import struct
import subprocess
import sys
import time
import types
from itertools import pairwise

import pytest
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from corp_ray import config, config_checks
from corp_ray.errors import ConfigError
from corp_ray.posttrain import check_place
from corp_ray.records import GRADED, Candidate, EngineCounts, Evaluation
from corp_ray.trackers import TensorBoard, WeightsAndBiases, run_key
from corp_ray.tracking import Tracking, open_tracking
from tests import runs

OFFLINE = {"tracking.wandb_project": "tests", "tracking.wandb_mode": "offline"}
PATIENCE_S = 300


def curves(folder):
    """{name: [(step, value)]} of the event files below a folder, as TensorBoard reads them."""
    found = {}
    for name in ("rows", "rounds"):
        events = EventAccumulator(str(folder / name), size_guidance={SCALARS: 0})
        if (folder / name).exists():
            events.Reload()
        for tag in events.Tags()[SCALARS]:
            found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def records(path):
    """Every record of a .wandb file: blocks of 32 KiB in LevelDB's log format, after 7 bytes."""
    content, place, parts = path.read_bytes(), 7, []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind == 0:
            break
        parts.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(b"".join(parts))
            parts = []


def offline_runs(folder):
    """[(id, configuration's keys, [what was logged])] of the offline runs in a folder, by age."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        told = list(records(path))
        run = next(r.run for r in told if r.HasField("run"))
        rows = [
            {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
            for r in told
            if r.HasField("history")
        ]
        found.append((run.run_id, {item.key for item in run.config.update}, rows))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_address):
    """Run directory of a run that was tracked by both and went through undisturbed."""
    folder = tmp_path_factory.mktemp("tracked")
    conf = runs.workspace(folder, **{"tracking.tensorboard": True, **OFFLINE})
    code, _, err = runs.run(conf, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert "left out" not in err
    return folder / "runs/run"


def number(root, *names):
    return json.loads(root.joinpath(*names).read_text())


def test_every_round_is_in_the_event_files_with_the_numbers_of_its_record(finished):
    found = curves(finished / "tensorboard")
    for t in (0, 1):
        record = number(finished, "rounds", f"{t}.json")
        best = next(p for p in record["proposals"] if p["id"] == record["best"])
        cloud = next(
            c
            for c in record["consolidations"]
            if (c["quantile"], c["inverse_temperature"])
            == (best["quantile"], best["inverse_temperature"])
        )
        expected = {
            "center": record["support"]["center"],
            "best_of_population": record["support"]["best"]["mean"],
            "best_validation": max(p["validation"] for p in record["proposals"]),
            "accepted": float(record["accepted"]),
            "isotropic_share": record["isotropic_share"],
            "gate_mean": record["verdict"]["mean"],
            "gate_lower": record["verdict"]["lower"],
            **{name: cloud[name] for name in ("effective_rank", "kappa", "ess", "norm")},
        }
        got = {name: dict(found[f"round/{name}"])[t] for name in expected}
        assert got == pytest.approx(expected, rel=1e-6)
    assert [step for step, _ in found["round/sigma"]] == [1]  # round 0 has a list of them
    assert found["round/sigma"][0][1] == pytest.approx(number(finished, "rounds/1.json")["sigma"])


def test_phases_and_the_test_table_are_drawn_over_the_rows_of_the_table(finished):
    found, rows = curves(finished / "tensorboard"), runs.rows(finished)
    last = found["test/committed/gain"]
    committed = number(finished, "report/test.json")["test"][2]
    assert last == [(len(rows), pytest.approx(committed["gain"], rel=1e-6))]
    assert "test/base/gain" not in found
    first_round = [r for r in rows if r["split"] == "support" and r["round"] == 0]
    step, best = found["reward/support/best"][0]
    assert step == found["population/done"][0][0] == len(first_round) == 25
    assert best == pytest.approx(max(r["mean_reward"] for r in first_round), rel=1e-6)
    mean = found["reward/support/mean"][0][1]
    assert mean == pytest.approx(sum(r["mean_reward"] for r in first_round) / 25, rel=1e-6)
    assert all(value > 0 for _, value in found["population/tokens_per_s"])


def test_settings_are_hyperparameters_and_the_test_table_is_a_text(finished):
    events = EventAccumulator(str(finished / "tensorboard/rows"))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"population.size" in content
    assert b"[0.01, 0.02]" in content
    table = events.Tensors("test/table")[0].tensor_proto.string_val[0].decode()
    assert [line.split(" | ")[0] for line in table.splitlines()] == [
        "| name",
        "| ---",
        "| base",
        "| best single",
        "| committed",
    ]


def test_the_offline_run_at_weights_and_biases_holds_the_same_numbers(finished):
    ((key, settings, rows),) = offline_runs(finished)
    assert key.startswith("run-")
    assert {"population", "splits", "gate"} <= settings
    steps = [row["_step"] for row in rows]
    assert steps == sorted(steps)
    assert steps[-1] == len(runs.rows(finished))
    assert [row["round"] for row in rows if "round" in row] == [0, 1]
    for name, curve in curves(finished / "tensorboard").items():
        axis = "round" if name.startswith("round/") else "rows"
        assert curve == [(r[axis], pytest.approx(r[name], rel=1e-6)) for r in rows if name in r]


def test_a_killed_run_goes_on_in_the_same_curves_and_the_same_run(tmp_path, ray_address):
    """The first start has TensorBoard alone; Weights & Biases is asked for later."""
    conf = runs.workspace(tmp_path, **{"engine.options.delay_s": 0.3, "tracking.tensorboard": True})
    root, process = tmp_path / "runs/run", runs.start(conf, RAY_ADDRESS=ray_address)
    deadline = time.monotonic() + PATIENCE_S
    logged = root / "tensorboard"
    while "validation_sweep/done" not in curves(logged):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before, changes = curves(logged), [f"{k}={v}" for k, v in OFFLINE.items()]
    for _ in range(2):  # the second time nothing is left to do
        code, _, err = runs.run(conf, *changes, RAY_ADDRESS=ray_address)
        assert code == 0, err
    after = curves(logged)
    assert before["validation_sweep/done"] == after["validation_sweep/done"][:1]
    for name, curve in after.items():
        steps = [step for step, _ in curve]
        assert all(a < b for a, b in pairwise(steps)), name
    assert after["population/done"][0] == before["population/done"][0]
    assert [step for step, _ in after["round/center"]] == [0, 1]
    assert after["test/base/mean"][0][0] == len(runs.rows(root))
    first, second = offline_runs(root)
    assert first[0] == second[0]
    assert [row["round"] for row in first[2] if "round" in row] == [0, 1]
    assert second[2][0]["_step"] >= first[2][-1]["_step"]


def job_with(prelude, *arguments, **environment):
    """(exit code, standard output, standard error) of jobs/posttrain in a process that runs
    `prelude` first."""
    code = f"import runpy, sys\n{prelude}\nrunpy.run_module('jobs.posttrain', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=runs.ROOT,
        env={**runs.os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return runs.finish(process)


def test_a_run_that_asks_for_neither_imports_neither(tmp_path, ray_address):
    conf = runs.workspace(tmp_path, **{"recentering.rounds": 0})
    prelude = (
        "import atexit\n"
        "names = ('tensorboard', 'wandb', 'torch')\n"
        "atexit.register(lambda: print('imported', [n for n in names if n in sys.modules]))"
    )
    code, out, err = job_with(prelude, "--config", conf, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert out.splitlines()[-1] == "imported []"
    assert not {"tensorboard", "wandb"} & {path.name for path in (tmp_path / "runs/run").iterdir()}


def test_trackers_bring_no_torch_into_the_driver(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom corp_ray.trackers import *\n"
        "made = TensorBoard(Path(sys.argv[1]), {'a': {'b': 1}})\n"
        "made.scalars(1, {'x': 0.5})\nmade.table(1, 't', [{'a': 1}])\nmade.close()\n"
        "import wandb\n"
        "sys.exit('torch' in sys.modules or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=runs.ROOT, check=True)
    assert curves(tmp_path) == {"x": [(1, 0.5)]}


@pytest.mark.parametrize(
    ("package", "override"),
    [("tensorboard", "tracking.tensorboard=true"), ("wandb", "tracking.wandb_project=p")],
)
def test_a_missing_package_is_one_line_before_anything_starts(tmp_path, package, override):
    conf = runs.workspace(tmp_path)
    code, out, err = job_with(f"sys.modules[{package!r}] = None", "--config", conf, override)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    setting = override.partition("=")[0]
    assert line.startswith(f"error: {setting}=")
    assert line.endswith(f"the package {package} to be installed: pip install 'corp-ray[tracking]'")
    assert not (tmp_path / "runs").exists()


def test_a_folder_called_wandb_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_leftover").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not config_checks._installed("wandb_leftover")
    assert config_checks._installed("wandb")


def test_a_tracker_that_cannot_write_is_said_once_and_the_run_goes_on(tmp_path, ray_address):
    conf = runs.workspace(tmp_path, **{"recentering.rounds": 0, "tracking.tensorboard": True})
    (tmp_path / "logs/run").mkdir(parents=True)
    (tmp_path / "logs/run/tensorboard").write_text("no folder")
    code, _, err = runs.run(conf, f"tracking.folder={tmp_path}/logs", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert err.count("tracking: tensorboard is left out from here on") == 1
    assert (tmp_path / "runs/run/report/test.json").exists()


class Notebook:
    """A tracker that writes down what it is told; `fail_at`: the call that raises."""

    def __init__(self, fail_at=0):
        self.lines, self._fail_at, self._calls = [], fail_at, 0

    def _call(self, *line):
        self._calls += 1
        if self._calls == self._fail_at:
            raise OSError("no space left")
        self.lines.append(line)

    def scalars(self, rows, values, *, round_number=None):
        self._call(rows, values, round_number)

    def table(self, rows, name, content):
        self._call(rows, name, len(content))

    def close(self):
        self._call("closed")


def evaluation(mean):
    candidate = Candidate("r0c1", "candidate", 0, ((3, 0.1),))
    return Evaluation(candidate, "abc", "support", (mean,) * 4, (GRADED,) * 4, 70, 0.5, "fake")


def tell(openings):
    """A phase of three results 4 s apart after 5 rows, one that was done before, a test table."""
    now = [0.0]
    told = Tracking(openings, clock=lambda: now[0])
    told.opened(5)
    told.engines(EngineCounts(2, 0, 1, 60.0, 80.0, 0))
    told.phase("round 0: population", 6, 3)
    for mean in (0.25, 0.75, 0.5):
        now[0] += 4.0
        told.result(evaluation(mean))
    told.phase_done()
    told.phase("round 0: gate", 2, 2)
    told.phase_done()
    told.measured([{"name": "base", "mean": 0.5}])
    told.close()


def test_a_phase_is_logged_every_few_seconds_and_at_its_end_and_one_done_before_is_not():
    notebook = Notebook()
    tell({"notebook": lambda: notebook})
    engines = {"ready": 2, "idle_share": 0.25, "restarts": 1, "set_aside": 0}
    same = {f"engines/{name}": value for name, value in engines.items()}
    point = {"population/per_s": 0.25, "population/tokens_per_s": 17.5, "reward/support/best": 0.75}
    assert notebook.lines == [
        (7, {**same, **point, "population/done": 5, "reward/support/mean": 0.5}, None),
        (8, {**same, **point, "population/done": 6, "reward/support/mean": 0.5}, None),
        (8, {"test/base/mean": 0.5}, None),
        (8, "test/table", 1),
        ("closed",),
    ]


def test_one_tracker_that_fails_is_said_once_and_the_other_hears_everything(caplog):
    bad, good = Notebook(fail_at=2), Notebook()
    with caplog.at_level(logging.WARNING, "corp_ray"):
        tell({"bad": lambda: bad, "good": lambda: good})
    assert [record.getMessage() for record in caplog.records] == [
        "tracking: bad is left out from here on (no space left)"
    ]
    assert len(bad.lines) == 1
    assert len(good.lines) == 5


def test_a_tracker_that_never_answers_holds_nothing_up(caplog, monkeypatch):
    monkeypatch.setattr("corp_ray.tracking.CLOSE_S", 0.2)
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING, "corp_ray"):
        tell({"deaf": lambda: time.sleep(20)})
    assert time.monotonic() - begin < 10
    assert "deaf has not taken everything" in caplog.text


def test_rounds_decided_anew_replace_those_before_and_equal_ones_are_not_written_again(tmp_path):
    for centers, rows in (([0.1, 0.2, 0.3], 30), ([0.1, 0.2, 0.3], 30), ([0.1, 0.5], 40)):
        made = TensorBoard(tmp_path, {})
        made.scalars(rows, {"done": float(rows)})
        for t, center in enumerate(centers):
            made.scalars(rows, {"round/center": center}, round_number=t)
        made.close()
    found = curves(tmp_path)
    assert found["round/center"] == [(0, pytest.approx(0.1)), (1, 0.5)]
    assert found["done"] == [(30, 30.0), (40, 40.0)]


class Online(types.ModuleType):
    """What of the package wandb a tracker uses, with a run that has been at step 39 and round 1."""

    def __init__(self):
        super().__init__("wandb")
        self.given, self.logged = {}, []
        self.step, self.summary = 40, {"round": 1}
        self.Settings = dict

    def init(self, **given):
        self.given = given
        return self

    def define_metric(self, name, step_metric=None):
        pass

    def log(self, content, step):
        self.logged.append((step, content))


def test_a_run_taken_up_again_online_repeats_no_round_and_never_steps_back(tmp_path, monkeypatch):
    online = Online()
    monkeypatch.setitem(sys.modules, "wandb", online)
    names = {"key": run_key("run", "/runs"), "name": "run", "project": "p"}
    made = WeightsAndBiases(tmp_path, {}, **names, entity="", mode="")
    made.scalars(39, {"round/center": 0.1}, round_number=0)
    made.scalars(39, {"round/center": 0.3}, round_number=2)  # was lost with the driver before
    made.scalars(55, {"done": 5.0})
    made.scalars(55, {"round/center": 0.2}, round_number=0)  # the population has grown
    assert [(step, set(content)) for step, content in online.logged] == [
        (40, {"round", "round/center"}),
        (55, {"rows", "done"}),
        (55, {"round", "round/center"}),
    ]
    assert online.given["id"] == run_key("run", "/runs") != run_key("run", "/other")
    assert (online.given["mode"], online.given["entity"]) == (None, None)  # as WANDB_* say


def loaded(tmp_path, *overrides):
    path = tmp_path / "run.yaml"
    path.write_text("model: {path: m}\ntask: {dataset: chain_sum}\n")
    return config.load(str(path), overrides)


def test_events_go_to_a_local_folder_and_a_remote_run_must_name_one(tmp_path):
    on = "tracking.tensorboard=true"
    assert open_tracking(loaded(tmp_path, "run.directory=s3://bucket/runs")) is None
    with pytest.raises(ConfigError, match=r"tracking.folder='': expected a local folder.*s3://"):
        open_tracking(loaded(tmp_path, on, "run.directory=s3://bucket/runs"))
    with pytest.raises(ConfigError, match=r"tracking.folder='s3://b': expected a local folder"):
        open_tracking(loaded(tmp_path, on, "tracking.folder=s3://b"))
    there = [on, "run.directory=s3://bucket/runs", f"tracking.folder={tmp_path}/logs"]
    assert open_tracking(loaded(tmp_path, *there)) is not None
    assert not (tmp_path / "logs").exists()  # nothing before the run directory is the run's


def test_a_submitted_jobs_temporary_copy_is_no_place_for_events(tmp_path, monkeypatch):
    monkeypatch.setattr("corp_ray.posttrain.cluster.submitted", lambda: True)
    check_place(loaded(tmp_path, "run.directory=/runs", "tracking.folder=/logs"))
    with pytest.raises(ConfigError, match=r"tracking.folder='logs': expected an absolute path;"):
        check_place(loaded(tmp_path, "run.directory=/runs", "tracking.folder=logs"))
