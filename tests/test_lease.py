"""The lease on a run directory: one living driver, no matter whose clock says what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from corp_ray import lease as lease_module
from corp_ray.errors import ConfigError, LeaseError
from corp_ray.lease import Lease
from corp_ray.storage import Storage
from tests import runs

BEAT_S, STALE_S = 0.1, 0.6


def make(path):
    return Lease(Storage.open(path.parent), beat_s=BEAT_S, stale_s=STALE_S)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run/lease.json"


def elsewhere(path, **changes):
    """A lease that a process on another machine would have written."""
    path.parent.mkdir(exist_ok=True)
    content = {"holder": "h", "host": "far", "pid": os.getpid(), "machine": "m", "born": "1"}
    path.write_text(json.dumps(content | {"beats": 3} | changes))
    return path


def test_a_lease_beats_while_it_is_held_and_leaves_nothing(path):
    lease = make(path)
    lease.acquire()
    first = json.loads(path.read_text())["beats"]
    time.sleep(5 * BEAT_S)
    assert json.loads(path.read_text())["beats"] > first
    lease.check()
    lease.release()
    assert list(path.parent.iterdir()) == []


def test_the_second_is_refused_while_the_first_lives(path):
    first = make(path)
    first.acquire()
    for attempt in ("check_free", "acquire"):
        with pytest.raises(ConfigError, match=f"at work there .*process {os.getpid()}"):
            getattr(make(path), attempt)()
    first.check()
    first.release()
    make(path).check_free()


def test_a_dead_process_of_this_machine_is_followed_at_once(path):
    code = f"from corp_ray.lease import Lease; import os\n\
from corp_ray.storage import Storage\n\
Lease(Storage.open({str(path.parent)!r})).acquire(); os._exit(0)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=runs.ROOT)
    while process.poll() is None:
        time.sleep(0.05)
    follower = Lease(Storage.open(path.parent), beat_s=BEAT_S, stale_s=60)
    begin = time.monotonic()
    follower.acquire()
    assert time.monotonic() - begin < 5
    follower.release()


def test_a_process_number_that_another_process_has_now_is_dead(path):
    elsewhere(path, machine=lease_module._machine(), born="1")
    Lease(Storage.open(path.parent), beat_s=BEAT_S, stale_s=60).check_free()


@pytest.mark.parametrize("stamp", [0, 4_000_000_000])
def test_a_silent_holder_elsewhere_is_followed_whatever_the_clocks_say(path, stamp):
    os.utime(elsewhere(path), (stamp, stamp))
    lease = make(path)
    begin = time.monotonic()
    lease.acquire()
    assert time.monotonic() - begin >= STALE_S
    lease.check()
    lease.release()


@pytest.mark.parametrize("stamp", [0, 4_000_000_000])
def test_a_beating_holder_elsewhere_is_respected_whatever_the_clocks_say(path, stamp):
    code = f"import json, os, time\n\
for beat in range(200):\n\
    text = json.dumps({{'holder': 'h', 'host': 'far', 'pid': 1, 'machine': 'm', 'beats': beat}})\n\
    open({str(path)!r} + '.new', 'w').write(text)\n\
    os.utime({str(path)!r} + '.new', ({stamp}, {stamp}))\n\
    os.replace({str(path)!r} + '.new', {str(path)!r})\n\
    time.sleep({BEAT_S})"
    elsewhere(path)
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        with pytest.raises(ConfigError, match="far, process 1"):
            make(path).acquire()
    finally:
        process.kill()
        process.wait()


def test_who_was_followed_notices_and_does_not_take_the_lease_along(path):
    first = make(path)
    first.acquire()
    elsewhere(path)
    time.sleep(4 * BEAT_S)
    with pytest.raises(LeaseError, match=r"taken over by another driver \(far"):
        first.check()
    first.release()
    assert json.loads(path.read_text())["host"] == "far"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"holder": "h"}'])
def test_a_broken_file_is_no_lease(path, text):
    path.parent.mkdir()
    path.write_text(text)
    lease = make(path)
    lease.acquire()
    lease.check()
    lease.release()


def test_a_second_driver_on_a_run_id_is_refused_and_disturbs_nothing(tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"engine.options.delay_s": 0.2, "ray.engines": 1})
    first = runs.start(config, RAY_ADDRESS=ray_address)
    while not (tmp_path / "runs/run/rewards").is_dir():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.1)
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 2
    assert "another driver is at work there" in err.splitlines()[-1]
    assert f"process {first.pid}" in err.splitlines()[-1]
    code, _, err = runs.finish(first)
    assert code == 0, err
    keys = [
        (r["center_digest"], r["split"], r["direction_digest"])
        for r in runs.rows(tmp_path / "runs/run")
    ]
    assert len(keys) == len(set(keys)) > 0
    assert not (tmp_path / "runs/run/lease.json").exists()


def test_a_lease_that_is_away_for_one_read_is_not_free_on_a_remote_storage():
    """Some replace a file by deleting and moving: who reads in between finds none."""
    storage = Storage.open("memory://lease/run")
    holder = Lease(storage, beat_s=BEAT_S, stale_s=STALE_S)
    holder.acquire()
    other = Lease(storage, beat_s=BEAT_S, stale_s=STALE_S)
    read, away = other._read, [True, False, True, False]
    other._read = lambda: None if away and away.pop(0) else read()
    try:
        with pytest.raises(ConfigError, match="another driver is at work there"):
            other.check_free()
    finally:
        holder.release()
    other.check_free()
