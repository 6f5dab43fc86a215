"""A run's directory: taken up again only by the run it belongs to; a larger population sets its
decisions aside whole, however often it is interrupted; every look at the gate split counts."""

import contextlib
import itertools
import json
import os
import shutil
from dataclasses import replace

import pytest
from pyarrow import fs

from corp_ray import config as configuration
from corp_ray import storage as storage_module
from corp_ray.errors import ConfigError, RewardTableError
from corp_ray.records import Candidate, Center, Failure
from corp_ray.run_directory import SET_ASIDE, RunDirectory, lines
from corp_ray.set_aside import SetAside, noted
from corp_ray.settings import Config
from tests.s3_server import CREDENTIALS, serving

IDENTITY = {
    "model": "m" * 64,
    "device": "cpu",
    "task_version": "rows exact 1",
    "decoding": "d" * 64,
    "noise_version": 1,
    "split": {"support": "s" * 64, "validation": "v", "gate": "g", "test": "t"},
}


@pytest.fixture
def config(tmp_path):
    made = Config()
    made.run.id, made.run.directory = "a", str(tmp_path / "runs")
    made.model.path, made.task.dataset = "m", "chain_sum"
    made.task.arguments = {"min_terms": 2, "digits": [1, 2]}
    made.population.size = 8
    return made


def changed(config, **changes):
    """The configuration with sections' keys replaced: section={key: value}."""
    parts = {n: replace(getattr(config, n), **keys) for n, keys in changes.items()}
    return replace(config, **parts)


def opened(config, identity=IDENTITY):
    directory = RunDirectory(config)
    directory.check_config()
    directory.open(identity)
    return directory


def snapshot(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def decided(config, *verdicts):
    """A run of config.population.size with one round per verdict (None: not taken to the gate)."""
    directory = opened(config)
    for number, verdict in enumerate(verdicts):
        size = config.population.size if number == 0 else config.recentering.population
        directory.write_round(
            number, {"population": size, "verdict": verdict and {"accepted": verdict == "accepted"}}
        )
    (directory.commits.local / "1").mkdir()
    (directory.commits.local / "1" / "recipe.json").write_text(f"of {config.population.size}")
    (directory.report.local / "test.json").write_text(f"of {config.population.size}")
    (directory.rewards.local / "part-1.parquet").write_bytes(b"rows")
    return directory


def test_a_new_run_leaves_its_configuration_and_its_environment(config):
    directory = opened(config)
    assert configuration.load(str(directory.root.local / "config.yaml")) == config
    environment = json.loads((directory.root.local / "environment.json").read_text())
    assert environment["identity"] == IDENTITY
    assert environment["versions"]["torch"]
    assert set(environment) == {"identity", "versions", "python", "platform", "git"}
    names = {"config.yaml", "environment.json", "rewards", "rounds", "commits", "report"}
    assert {path.name for path in directory.root.local.iterdir()} == names


def test_opening_again_changes_nothing(config):
    directory = decided(config, "accepted", None)
    before = snapshot(directory.root.local)
    opened(config)
    assert snapshot(directory.root.local) == before


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"run": {"seed": 5}}, ["run.seed=0", "now 5"]),
        ({"model": {"dtype": "float32"}}, ["model.dtype='bfloat16'", "now 'float32'"]),
        ({"splits": {"gate": 300}}, ["splits.gate=256", "now 300"]),
        ({"population": {"sigmas": [0.1]}}, ["population.sigmas=[0.0005", "now [0.1]"]),
        ({"consolidation": {"steps": [1.0]}}, ["consolidation.steps=[0.5", "now [1.0]"]),
        ({"gate": {"alpha": 0.1}}, ["gate.alpha=0.05", "now 0.1"]),
        ({"task": {"arguments": {"min_terms": 3, "digits": [1, 2]}}}, ["min_terms=2", "now 3"]),
        (
            {"task": {"arguments": {"min_terms": 2}}},
            ["task.arguments.digits=[1, 2]", "now not set"],
        ),
        ({"engine": {"options": {"attention": "sdpa"}}}, ["engine.options", "'sdpa'"]),
        ({"population": {"size": 7}}, ["population.size=8", "now 7"]),
        ({"recentering": {"population": 200}}, ["recentering.population=100", "now 200"]),
    ],
)
def test_a_changed_setting_is_refused_with_old_and_new(config, change, parts):
    root = decided(config, "accepted").root.local
    before = snapshot(root)
    with pytest.raises(ConfigError) as raised:
        opened(changed(config, **change))
    assert len(str(raised.value).splitlines()) == 1
    for part in ["run.id='a'", *parts]:
        assert part in str(raised.value)
    assert snapshot(root) == before


def test_a_setting_that_came_later_than_the_run_must_have_its_default(config):
    root = decided(config, "accepted").root.local
    stored = (root / "config.yaml").read_text()
    older = stored.replace("  low_rank: true\n", "")
    assert older != stored
    (root / "config.yaml").write_text(older)
    with pytest.raises(ConfigError, match=r"recentering\.low_rank=True, now False"):
        opened(changed(config, recentering={"low_rank": False}))
    assert (root / "config.yaml").read_text() == older
    opened(config)


def test_what_decides_no_result_may_change(config):
    root = decided(config, "accepted").root.local
    moved = root.parent.parent / "moved"
    shutil.move(root.parent, moved)
    free = changed(
        config,
        run={"directory": str(moved)},
        engine={"threads": 4},
        ray={"engines": 3, "in_flight": 1, "attempts": 9, "gpus_per_engine": 0.5},
        evaluate={"model": "somewhere"},
    )
    again = opened(free)
    assert again.root.local == moved / "a"
    assert (again.rounds.local / "0.json").exists()
    assert configuration.load(str(again.root.local / "config.yaml")).ray == free.ray


@pytest.mark.parametrize("name", ["model", "device", "task_version", "decoding", "noise_version"])
def test_a_changed_identity_is_refused_by_name(config, name):
    root = decided(config, "accepted").root.local
    before = snapshot(root)
    with pytest.raises(RewardTableError) as raised:
        opened(config, {**IDENTITY, name: "x" * 64})
    assert f" {name} has changed" in str(raised.value)
    assert "xxxx" in str(raised.value)
    assert str(IDENTITY[name])[:4] in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert snapshot(root) == before


def test_changed_examples_are_refused_by_the_name_of_their_split(config):
    opened(config)
    with pytest.raises(RewardTableError, match=r"split\.gate has changed"):
        opened(config, {**IDENTITY, "split": {**IDENTITY["split"], "gate": "other"}})


def test_a_larger_population_before_any_decision_just_goes_on(config):
    directory = opened(config)
    (directory.rewards.local / "part-1.parquet").write_bytes(b"rows")
    larger = opened(changed(config, population={"size": 16}))
    assert not (larger.root.local / "superseded").exists()
    assert (larger.rewards.local / "part-1.parquet").exists()
    with pytest.raises(ConfigError, match=r"population\.size=16, now 8"):
        opened(config)


def assert_set_aside(root, number, size):
    """superseded/<number> holds what a population of `size` decided; rows stay in use."""
    aside = root / "superseded" / str(number)
    assert json.loads((aside / "rounds" / "0.json").read_text())["population"] == size
    assert (aside / "commits" / "1" / "recipe.json").read_text() == f"of {size}"
    assert (aside / "report" / "test.json").read_text() == f"of {size}"
    for name in ("rounds", "commits", "report"):
        assert list((root / name).iterdir()) == []
    assert (root / "rewards" / "part-1.parquet").read_bytes() == b"rows"


def test_a_larger_population_sets_earlier_decisions_aside(config):
    root = decided(config, "accepted", "rejected").root.local
    for number, size in ((1, 16), (2, 32)):
        larger = changed(config, population={"size": size})
        opened(larger)
        assert_set_aside(root, number, size // 2)
        opened(larger)  # and nothing more the next time
        assert_set_aside(root, number, size // 2)
        decided_again = decided(larger, "rejected")
        assert decided_again.root.local == root
    assert sorted(path.name for path in (root / "superseded").iterdir()) == ["1", "2"]


def test_a_run_killed_anywhere_while_setting_aside_ends_in_the_same_place(config, monkeypatch):
    """Killed before call number `step` that changes a folder, for every step; then opened again."""

    class Killed(BaseException):
        pass

    for step in itertools.count():
        base = changed(config, run={"id": f"killed-{step}"})
        root = decided(base, "accepted").root.local
        larger = changed(base, population={"size": 16})
        calls = []

        def until_killed(call, calls=calls, step=step):
            def counted(*paths, **options):
                if calls or "superseded" in str(paths):
                    calls.append(call)
                    if len(calls) > step:
                        raise Killed
                return call(*paths, **options)

            return counted

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            for name in ("mkdir", "rename", "replace"):
                patch.setattr(os, name, until_killed(getattr(os, name)))
            opened(larger)
        killed = len(calls) > step
        opened(larger)
        assert_set_aside(root, 1, 8)
        assert [path.name for path in (root / "superseded").iterdir()] == ["1"]
        if not killed:
            break
    assert step >= 5


def test_growth_abandoned_half_way_and_taken_up_again_keeps_every_decision(config):
    """Killed after two of three renames, finished at the old size, grown again."""
    root = decided(config, "accepted").root.local
    aside = root / "superseded" / "1"
    aside.mkdir(parents=True)
    for name in ("report", "commits"):
        (root / name).rename(aside / name)
    decided(config, "accepted")  # the run goes on at the old size and decides the same again
    opened(changed(config, population={"size": 16}))
    for name in ("rounds", "commits", "report"):
        assert list((root / name).iterdir()) == []


def test_every_look_counts_those_of_superseded_rounds_too(config):
    directory = decided(config, "accepted", None, "rejected")
    assert [directory.looks_before(n) for n in range(4)] == [0, 1, 1, 2]
    larger = opened(changed(config, population={"size": 16}))
    assert [larger.looks_before(n) for n in range(2)] == [2, 2]
    larger.write_round(0, {"population": 16, "verdict": {"accepted": False}})
    assert [larger.looks_before(n) for n in range(2)] == [2, 3]
    largest = opened(changed(config, population={"size": 32}))
    assert largest.looks_before(0) == 3


def test_decisions_without_candidates_that_are_to_be_tried_again_are_set_aside(config):
    """`set_aside.jsonl` deleted: the round has other members now, and its commit is not in the way."""
    directory = decided(config, "accepted")
    record = directory.rounds.read_json("0.json") | {"set_aside": 1}
    directory.write_round(0, record)
    noted = {"round": 0, "candidate": "r0c5", "split": "support", "reason": "lost"}
    directory.append_line("set_aside.jsonl", noted)
    assert opened(config).rounds.names() == ["0.json"]
    (directory.root.local / "set_aside.jsonl").unlink()
    again = opened(config)
    assert again.rounds.names() == [] and again.commits.folders() == []
    assert (directory.root.local / "superseded/1/rounds/0.json").exists()
    assert again.looks_before(0) == 1
    again.write_round(0, record | {"set_aside": 0})
    assert opened(config).rounds.names() == ["0.json"]


def test_a_look_counts_once_written_or_not_and_is_the_same_after_a_restart(config):
    directory = opened(config)
    assert directory.look(0, "base", "first") == 1
    assert opened(config).look(0, "base", "first") == 1  # killed before the round was written
    assert opened(config).look(0, "base", "second") == 2  # decided otherwise since
    assert directory.look(0, "base", "first") == 1
    (directory.root.local / "looks.jsonl").open("a").write('{"look": 3, "round"')
    assert directory.look(1, "other", "first") == 3
    larger = opened(changed(config, population={"size": 16}))
    assert larger.look(0, "base", "third") == 4
    assert larger.look(1, "other", "first") == 3


def test_looks_of_before_they_were_noted_count_by_their_rounds(config):
    directory = decided(config, "accepted", "rejected")
    assert [directory.look(n, "base", f"d{n}") for n in range(3)] == [1, 2, 3]
    larger = opened(changed(config, population={"size": 16}))
    assert larger.look(0, "base", "another") == 4


def test_a_directory_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").write_text("no folder")
    below = changed(config, run={"directory": str(tmp_path / "file" / "runs")})
    with pytest.raises(ConfigError) as raised:
        opened(below)
    assert f"run.directory='{tmp_path / 'file' / 'runs'}'" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert (tmp_path / "file").read_text() == "no folder"


def test_metrics_are_lines_and_a_line_cut_short_spoils_no_other(config):
    directory = opened(config)
    directory.log_metrics({"phase": "a"})
    path = directory.root.local / "metrics.jsonl"
    with path.open("a") as stream:
        stream.write('{"phase": "b", "seco')  # the process was killed here
    RunDirectory(config).log_metrics({"phase": "c"})
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["phase"] for line in whole] == ["a", "c"]


def test_shards_append_to_files_of_their_own_and_are_read_together(config):
    """A storage that cannot append writes a file anew: of two writers one would lose its line."""
    whole = opened(config)
    shards = [RunDirectory(config, shard=f"{n}-of-2") for n in range(2)]
    for number, directory in enumerate((*shards, whole)):
        directory.log_metrics({"phase": number})
        SetAside(directory).add(
            Center("m", "base"),
            "support",
            Candidate(f"r0c{number}", "candidate", 0, ((number, 1.0),)),
            Failure(number, "lost", 3),
        )
    assert whole.root.names("*metrics.jsonl") == [
        "metrics.jsonl",
        "score-0-of-2-metrics.jsonl",
        "score-1-of-2-metrics.jsonl",
    ]
    assert [line["phase"] for line in lines(whole.root, "metrics.jsonl")] == [0, 1, 2]
    found = [line["candidate"] for line in lines(whole.root, SET_ASIDE)]
    assert found == ["r0c0", "r0c1", "r0c2"]
    assert len(SetAside(whole)) == len(noted(whole.root)) == 3
    whole.write_round(0, {"population": 8, "set_aside": 3, "verdict": None})
    assert opened(config).rounds.names() == ["0.json"]
    for name in whole.root.names("score-*-set_aside.jsonl"):
        whole.root.remove(name)
    assert opened(config).rounds.names() == []


class Interrupted:
    """A pyarrow file system that is killed before the n-th call that changes anything; removing a
    folder is killed half way too."""

    CHANGES = ("copy_file", "move", "delete_file", "delete_dir", "open_output_stream", "create_dir")

    def __init__(self, made):
        self.made, self.left = made, 10**9

    def __getattr__(self, name):
        call = getattr(self.made, name)
        return (
            call if name not in self.CHANGES else lambda *given, **more: self._do(call, given, more)
        )

    def _do(self, call, given, more):
        self.left -= 1
        if self.left < 0:
            if call.__name__ == "delete_dir":
                below = self.made.get_file_info(fs.FileSelector(given[0], recursive=True))
                for info in [i for i in below if i.type == fs.FileType.File][::2]:
                    self.made.delete_file(info.path)
            raise Killed
        return call(*given, **more)


class Killed(BaseException):
    pass


def test_decisions_are_set_aside_on_s3_however_often_that_is_interrupted(config, monkeypatch):
    """Killed before every single change of the storage, then opened again, at either size."""
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    with serving() as server:
        open_files = storage_module.open_files
        made = []

        def wrapped(location, setting):
            files, path = open_files(location, setting)
            files._made = Interrupted(files._made)
            made.append(files._made)
            return files, path

        monkeypatch.setattr(storage_module, "open_files", wrapped)
        step = 0
        while True:
            base = changed(config, run={"id": f"killed-{step}", "directory": server.url("runs")})
            root = f"runs/killed-{step}/"
            directory = opened(base)
            for number in range(3):
                directory.write_round(number, {"population": 8, "verdict": {"accepted": False}})
            (directory.commits / "1").write_text("recipe.json", "of 8")
            directory.report.write_text("test.json", "of 8")
            before = below(server, root)
            larger = changed(base, population={"size": 16})
            growing = RunDirectory(larger)
            made[-1].left = step
            with contextlib.suppress(Killed):
                growing.open(IDENTITY)
            killed = made[-1].left < 0
            if step % 2 and "rounds/0.json" in below(server, root):
                # Taken up again at the old size first: no look at the gate is counted twice.
                assert [opened(base).looks_before(n) for n in range(4)][:2] == [0, 1]
            again = opened(larger)
            after = below(server, root)
            moved = {
                k: v for k, v in before.items() if k.startswith(("rounds", "commits", "report"))
            }
            assert {k: v for k, v in after.items() if k.startswith("superseded")} == {
                f"superseded/1/{k}": v for k, v in moved.items()
            }
            assert not [k for k in after if k.startswith(("rounds", "commits", "report"))]
            assert again.looks_before(1) == 3
            if not killed:
                break
            step += 1
    assert step >= 12


def below(server, root):
    return {key.removeprefix(root): data for key, data in server.objects(root).items()}
