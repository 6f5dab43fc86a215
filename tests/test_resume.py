"""Kills: the driver at random moments of a run, a broken part, a full disk; the result is the same.

Real processes, SIGKILL, the fake engine. The uninterrupted run's committed bytes are the measure.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests import runs

KILLS = 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_address):
    folder = tmp_path_factory.mktemp("undisturbed")
    config = runs.workspace(folder, **{"engine.options.delay_s": 0.1})
    begin = time.monotonic()
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    files = runs.commit_files(folder / "runs/run")
    assert files
    return config, files, time.monotonic() - begin


def _keys(rows):
    return [(r["center_digest"], r["split"], r["direction_digest"]) for r in rows]


def _measured(rows):
    """What scoring a row again would change: its seconds."""
    return {(*key, row["seconds"]) for key, row in zip(_keys(rows), rows, strict=True)}


def _same_and_once(root, files):
    assert runs.commit_files(root) == files
    keys = _keys(runs.rows(root))
    assert keys
    assert len(keys) == len(set(keys))


def test_ten_kills_of_the_driver_change_nothing_and_score_nothing_twice(
    undisturbed, tmp_path, ray_address
):
    """A run that gets through between two kills is checked, and killing goes on in a new one."""
    config, files, whole_s = undisturbed
    root = tmp_path / "run"
    moments = random.Random(20_240_601)
    killed = 0
    while killed < KILLS:
        process = runs.start(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
        try:
            # The first seconds are Ray and engines starting; the rest is where work happens.
            process.wait(timeout=moments.uniform(0.35, 0.75) * whole_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            continue
        code, _, err = runs.finish(process)
        assert code == 0, err
        _same_and_once(root, files)
        shutil.rmtree(root)
    code, _, err = runs.run(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert code == 0, err
    _same_and_once(root, files)


@pytest.mark.parametrize(
    "moment",
    [
        "rewards/*.parquet",  # scoring
        "commits/.staged-0/model.safetensors",  # before the gate
        "rounds/0.json",  # the gate has decided, the commit has not happened
        "commits/1/recipe.json",  # committed, before anything is recorded after it
    ],
)
def test_a_kill_at_each_stage_is_taken_up_to_the_same_commit(
    undisturbed, tmp_path, ray_address, moment
):
    config, files, _ = undisturbed
    root = tmp_path / "run"
    process = runs.start(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert runs.kill_when(process, lambda: any(root.glob(moment)))
    before = _measured(runs.rows(root))
    code, _, err = runs.run(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert runs.commit_files(root) == files
    keys = _keys(runs.rows(root))
    assert len(keys) == len(set(keys))
    assert before <= _measured(runs.rows(root))


def test_a_broken_and_a_foreign_part_are_set_aside_and_scored_again(
    undisturbed, tmp_path, ray_address
):
    config, files, _ = undisturbed
    root = tmp_path / "run"
    process = runs.start(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert runs.kill_when(process, lambda: len(list(root.glob("rewards/*.parquet"))) >= 6)
    broken, foreign, *_ = sorted(root.glob("rewards/part-*.parquet"))
    broken.write_bytes(broken.read_bytes()[:100])
    foreign.write_bytes(b"PAR1 not a table PAR1")
    code, _, err = runs.run(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert broken.name in err
    assert foreign.name in err
    assert {p.name for p in (root / "rewards/set_aside").iterdir()} == {broken.name, foreign.name}
    assert runs.commit_files(root) == files


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("decoding.max_new_tokens=9", "decoding.max_new_tokens"),
        ("task.system_prompt=Think.", "task.system_prompt"),
        ("splits.seed=5", "splits.seed"),
        ("run.seed=5", "run.seed"),
    ],
)
def test_a_changed_setting_is_refused_by_name(undisturbed, change, named):
    code, _, err = runs.run(undisturbed[0], change)
    assert code == 2
    assert named in err.splitlines()[-1]


def test_changed_weights_and_changed_data_are_refused_by_name(undisturbed):
    folder = undisturbed[0].parent
    for name, path in (
        ("model", folder / "model/model.safetensors"),
        ("split", folder / "task.jsonl"),
    ):
        original = path.read_bytes()
        path.write_bytes(original.replace(b'"answer": "7"', b'"answer": "8"'))
        if name == "model":
            path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        try:
            code, _, err = runs.run(undisturbed[0])
        finally:
            path.write_bytes(original)
        assert code == 2, err
        assert f" {name}" in err.splitlines()[-1]
        assert "changed" in err.splitlines()[-1]


def _actors(address, kind):
    """Process ids of actors of a class on the cluster at `address`."""
    listed = subprocess.run(
        ["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1:]
    table = [line.split(None, 2) for line in listed]
    mark = f"--gcs-address={address}"
    raylets = {pid for pid, _, args in table if "raylet/raylet" in args and mark in args}
    assert raylets
    return [int(pid) for pid, parent, args in table if parent in raylets and args.startswith(kind)]


@pytest.mark.parametrize("kind", ["ray::Scorer", "ray::Reducer", "ray::Gate"])
def test_a_killed_actor_of_any_kind_is_replaced(undisturbed, tmp_path, ray_address, kind):
    config, files, _ = undisturbed
    root = tmp_path / "run"
    process = runs.start(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    least = 0 if kind == "ray::Gate" else 5
    while process.poll() is None:
        found = _actors(ray_address, kind)
        if found and len(list(root.glob("rewards/*.parquet"))) >= least:
            os.kill(found[0], signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before the kill"
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert runs.commit_files(root) == files
    keys = _keys(runs.rows(root))
    assert len(keys) == len(set(keys))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 120 KB, and a function that gives it room."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")

    def grow():
        options = ["-o", "remount,size=50m"]
        subprocess.run(["mount", *options, str(place)], check=True, capture_output=True)

    yield place, grow
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_stops_the_run_with_that_reason_and_room_lets_it_finish(
    undisturbed, small_disk, ray_address
):
    config, files, _ = undisturbed
    place, grow = small_disk
    code, _, err = runs.run(config, f"run.directory={place}", RAY_ADDRESS=ray_address)
    assert code == 1
    assert "disk full while writing" in err.splitlines()[-1]
    held = set(_keys(runs.rows(place / "run")))
    assert held
    grow()
    code, _, err = runs.run(config, f"run.directory={place}", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert held <= set(_keys(runs.rows(place / "run")))
    assert runs.commit_files(place / "run") == files
