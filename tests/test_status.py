"""jobs/status: a run's state from its directory alone, in every state that a directory can be in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from corp_ray.lease import Lease
from corp_ray.status import read_status
from corp_ray.status_text import describe, duration, rate
from corp_ray.storage import Storage
from tests import runs

PATIENCE_S = 300


def status_job(*arguments):
    """(exit code, standard output, standard error) of jobs/status in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.status", *map(str, arguments)],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return runs.finish(process)


def wait_for(process, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_address):
    """(run directory, the states that --watch saw) of a run that went through undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    config = runs.workspace(folder, **{"engine.options.delay_s": 0.5})
    root = folder / "runs/run"
    process = runs.start(config, RAY_ADDRESS=ray_address)
    progress = root / "progress.json"
    wait_for(
        process,
        lambda: progress.exists() and json.loads(progress.read_text())["phase"]["done"] > 0,
    )
    code, out, err = status_job(root, "--json", "--watch")
    assert code == 0, err
    code, _, err = runs.finish(process)
    assert code == 0, err
    return root, process.pid, [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_live_run_is_watched_from_another_process_until_it_ends(finished):
    _, pid, states = finished
    first = states[0]
    assert (first["state"], first["driver"]["state"], first["driver"]["pid"]) == (
        "running",
        "alive",
        pid,
    )
    assert first["progress"]["phase"]["name"] == "round 0: population"
    assert first["rows"]["support"] >= 1
    assert first["left"]["run_s"] > 0
    counts = [sum(state["rows"].values()) for state in states]
    assert counts == sorted(counts)
    assert {state["state"] for state in states[:-1]} == {"running"}
    assert states[-1]["state"] == "ended"


def test_a_finished_run_shows_its_decisions_rows_and_table(finished):
    root, _, _ = finished
    status = read_status(str(root))
    assert (status["state"], status["reason"]) == ("ended", "rounds_done")
    assert status["driver"]["state"] == "none"
    on_disk = [row["split"] for row in runs.rows(root)]
    assert status["rows"] == {split: on_disk.count(split) for split in set(on_disk)}
    best = max(row["mean_reward"] for row in runs.rows(root) if row["split"] == "support")
    assert status["best_reward"]["support"] == best
    assert [one["round"] for one in status["rounds"]] == [0, 1]
    assert status["rounds"][0]["accepted"]
    assert "lower bound" in status["rounds"][0]["verdict"]
    assert status["commits"][0] == 1
    assert [row["name"] for row in status["test"]] == ["base", "best single", "committed"]
    assert status["left"] is None
    assert status["progress"]["state"] == "ended"


def test_status_writes_nothing(finished):
    before = snapshot(finished[0])
    code, out, err = status_job(finished[0])
    assert (code, err) == (0, "")
    assert "ended (rounds_done)" in out
    assert snapshot(finished[0]) == before


def test_a_run_on_an_object_store_reads_the_same(finished, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        host, port = server.get_host_and_port()
        options = f"endpoint_override={host}:{port}&scheme=http"
        bucket = fs.FileSystem.from_uri(f"s3://?{options}&allow_bucket_creation=true")[0]
        bucket.create_dir("runs")
        fs.copy_files(str(finished[0]), "runs/run", destination_filesystem=bucket)
        place = f"s3://runs/run?{options}"
        code, out, err = status_job(place, "--json")
        assert (code, err) == (0, "")
        there, here = json.loads(out), read_status(str(finished[0]))
        assert there == {**json.loads(json.dumps(here)), "directory": place}
        for wrong in (f"s3://runs/other?{options}", f"s3://none/run?{options}"):
            code, out, err = status_job(wrong)
            assert (code, out, len(err.splitlines())) == (2, "", 1), err
    finally:
        server.stop()


def test_a_run_from_before_progress_was_kept_prints_what_there_is(copy):
    (copy / "progress.json").unlink()
    code, out, _ = status_job(copy)
    assert code == 0
    assert "gate, look 1: accepted" in out
    assert "committed" in out


def test_a_killed_run_is_interrupted_and_names_its_driver(tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"engine.options.delay_s": 0.3})
    root = tmp_path / "runs/run"
    process = runs.start(config, RAY_ADDRESS=ray_address)
    wait_for(process, lambda: len(list(root.glob("rewards/*.parquet"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    status = read_status(str(root))
    assert (status["state"], status["driver"]["state"]) == ("interrupted", "gone")
    assert status["progress"]["state"] == "running"
    assert status["left"] is None
    code, out, _ = status_job(root)
    assert code == 0
    first = out.splitlines()[0]
    assert first.startswith("run: interrupted") and f"process {process.pid}" in first
    assert "round 0: population" in out


@pytest.mark.parametrize("what", ["nothing", "folder", "file"])
def test_what_is_no_run_directory_ends_with_one_line_and_code_2(tmp_path, what):
    place = tmp_path / "place"
    if what == "folder":
        place.mkdir()
    if what == "file":
        place.write_text("x")
    code, out, err = status_job(place)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {place}: ")
    assert len(err.splitlines()) == 1
    assert place.exists() == (what != "nothing")


@pytest.mark.parametrize(
    "files",
    [
        {"lease.json": "{}"},
        {"environment.json": '{"identity": {}}'},
        {"config.yaml": "run: {id: early}\n"},
        {"config.yaml": "run: {id: early}\n", "metrics.jsonl": '{"restarts": 2}\n{"rest'},
    ],
)
def test_a_run_that_has_only_begun_is_not_an_error(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "rewards").mkdir()
    code, out, err = status_job(tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith(
        "interrupted, no driver is at work; the same command goes on"
    )
    assert ("2 replaced" in out) == ("metrics.jsonl" in files)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ({"kind": "rows", "path": "/a/t.jsonl", "grader": "numeric"}, "t.jsonl, graded by numeric"),
        ({"dataset": "chain_sum"}, "reasoning-gym chain_sum"),
        (
            {"kind": "reasoning_gym", "dataset": "lcm", "arguments": {"numbers": 2}},
            'reasoning-gym lcm {"numbers": 2}',
        ),
        ({"kind": "reasoning_gym", "path": "/a/my_task.py"}, "my_task.py, a task of its own"),
        ({"kind": "gsm8k", "path": "/a/gsm8k_train.jsonl"}, "gsm8k of gsm8k_train.jsonl"),
        ({"kind": "countdown", "dataset": "x/y", "split": "train"}, "countdown of x/y train"),
        ({"kind": "mbpp"}, "mbpp"),
    ],
)
def test_a_run_names_its_task_as_its_comparison_does(tmp_path, task, name):
    (tmp_path / "config.yaml").write_text(json.dumps({"run": {"id": "r"}, "task": task}))
    assert read_status(str(tmp_path))["task"] == name


def test_a_part_that_cannot_be_read_counts_for_nothing(copy):
    rows = read_status(str(copy))["rows"]
    (copy / "rewards/part-broken.parquet").write_bytes(b"PAR1 nothing")
    assert read_status(str(copy))["rows"] == rows


def test_a_row_that_two_parts_hold_is_counted_once(copy):
    rows = read_status(str(copy))["rows"]
    part = next((copy / "rewards").glob("part-*.parquet"))
    shutil.copy(part, part.with_name("compact-1.parquet"))
    assert read_status(str(copy))["rows"] == rows


def test_candidates_set_aside_are_counted_and_the_last_is_named(copy):
    entries = [
        {"round": 0, "candidate": f"r0c{k}", "reason": "its engine died", "attempts": 3}
        for k in (4, 9)
    ]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (copy / "set_aside.jsonl").write_text(text + '{"round": 1, "cand')
    status = read_status(str(copy))
    assert status["set_aside"] == entries
    assert "2 candidates given up, the last r0c9 after 3 attempts" in " ".join(
        describe(status).split()
    )


def lease_elsewhere(root, beats):
    content = {"holder": "h", "host": "far", "pid": 7, "machine": "m", "born": "1", "beats": beats}
    Storage.open(root).write_json("lease.json", content)


def test_a_driver_on_another_machine_is_alive_while_its_counter_moves(copy):
    (copy / "report/test.json").unlink()
    lease_elsewhere(copy, 1)
    over = threading.Event()

    def beat():
        beats = 1
        while not over.wait(0.1):
            beats += 1
            lease_elsewhere(copy, beats)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        status = read_status(str(copy), sight_s=PATIENCE_S)
    finally:
        over.set()
        thread.join()
    assert (status["state"], status["driver"]["host"]) == ("running", "far")
    silent = read_status(str(copy), sight_s=0.5)
    assert silent["state"] == "silent"
    assert "its driver (far, process 7) has gone silent" in describe(silent)


def test_shards_at_work_are_told_and_one_that_was_killed_is_not(copy):
    (copy / "report/test.json").unlink()
    there = Storage.open(copy)
    shards = [Lease(there, f"lease-score-{n}-of-3.json") for n in (0, 1)]
    for shard in shards:
        shard.acquire()
    gone = {"holder": "h", "host": "far", "pid": 7, "machine": "m", "born": "1", "beats": 1}
    there.write_json("lease-score-2-of-3.json", gone)
    try:
        status = read_status(str(copy), sight_s=0.2)
    finally:
        for shard in shards:
            shard.release()
    assert [one["shard"] for one in status["shards"]] == ["0-of-3", "1-of-3"]
    assert {one["pid"] for one in status["shards"]} == {os.getpid()}
    assert (status["state"], status["left"]) == ("running", None)
    assert describe(status).splitlines()[0] == "run: running, shard 0-of-3, 1-of-3"
    assert read_status(str(copy), sight_s=0.2)["shards"] == []


def test_a_run_that_failed_says_why(copy):
    (copy / "report/test.json").unlink()
    content = json.loads((copy / "progress.json").read_text())
    content |= {"state": "failed", "reason": "disk full", "notes": ["a", "b"]}
    Storage.open(copy).write_json("progress.json", content)
    status = read_status(str(copy))
    assert (status["state"], status["reason"]) == ("failed", "disk full")
    assert describe(status).splitlines()[0] == "run: failed (disk full)"


def test_every_line_fits_a_terminal_of_80_columns(finished):
    for state in finished[2]:
        lines = describe(state, width=80).splitlines()
        assert max(len(line) for line in lines) <= 80
        assert describe(state, ascii_only=True).isascii()


def test_status_needs_neither_ray_nor_torch():
    code = "import sys, jobs.status\nsys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, check=False)
    assert done.returncode == 0


def test_durations_and_rates_have_units_that_people_use():
    assert [duration(s) for s in (0, 99, 100, 5940, 6060, 12_000, 400_000)] == [
        "0 s",
        "99 s",
        "2 min",
        "99 min",
        "1 h 41 min",
        "3 h 20 min",
        "4 d 15 h",
    ]
    assert [rate(r) for r in (12.34, 0.5, 0.01, 0.0001)] == [
        "12.3 a second",
        "30 a minute",
        "36 an hour",
        "0.36 an hour",
    ]
