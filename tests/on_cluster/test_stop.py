"""A submitted run is asked to stop: it drains within its time, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests import runs
from tests.on_cluster.watching import (
    assert_same_and_once,
    measured,
    row_count,
    state,
    until,
)

DRAIN_S = 30


def driver_process(cluster):
    """The one driver's own process on the head: not a shell around it, nor who submitted it."""
    found = []
    for pid in cluster.network.processes("head"):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:3] == [b"-m", b"jobs.posttrain"]:
            found.append(pid)
    (pid,) = found
    return pid


def ended(cluster, job):
    status = cluster.job(job)
    return status if status["status"] in ("STOPPED", "FAILED", "SUCCEEDED") else None


def test_sigterm_and_job_stop_drain_a_submitted_run_which_then_finishes(
    cluster, source, submission, undisturbed, tmp_path
):
    config, files = undisturbed
    root, trap = tmp_path / "run", tmp_path / "trap"
    command = (
        *("python", "-m", "jobs.posttrain", f"--config={config}", f"run.directory={tmp_path}"),
        *("engine.options.delay_s=1.0", f"engine.options.hang_once={trap}", "ray.engines=0"),
    )
    held = _stopped_by_sigterm(cluster, source, submission(), command, root)
    held = _stopped_by_ray(cluster, source, submission(), command, root, trap, held)
    code, out, err = runs.finish(cluster.submit(source, submission(), *command))
    assert code == 0, out + err
    assert held.items() <= measured(root).items(), "rows from before the stops were scored again"
    assert_same_and_once(root, files)


def _stopped_by_sigterm(cluster, source, job, command, root):
    """SIGTERM while candidates run: their rows are written and nothing else is begun."""
    process = cluster.submit(source, job, *command, f"ray.drain_s={DRAIN_S}")
    until(process, lambda: (root / "rewards").is_dir() and row_count(root) >= 3, "three rows")
    before, begin = row_count(root), time.monotonic()
    os.kill(driver_process(cluster), signal.SIGTERM)
    code, out, err = runs.finish(process)
    assert code == 1, out + err  # what `ray job submit` makes of every failed job
    assert time.monotonic() - begin < DRAIN_S
    assert cluster.job(job)["driver_exit_code"] == 143
    last = cluster.job(job)["message"].splitlines()[-1]
    assert last.startswith("error: stopped by SIGTERM; the same command goes on")
    assert state(root) == "stopped"
    assert not (root / "lease.json").exists()
    held = measured(root)
    # Four engines, each with one running; the rows of one moment more may have come in between.
    assert before < len(held) <= before + 8
    return held


def _stopped_by_ray(cluster, source, job, command, root, trap, held):
    """`ray job stop`, with an engine that never answers: the driver has all of its drain_s, which
    is longer than the 3 s after which Ray sends SIGKILL unless the job says otherwise."""
    wait = {"RAY_JOB_STOP_WAIT_TIME_S": "45"}
    process = cluster.submit(source, job, *command, "ray.drain_s=8", env_vars=wait)
    until(process, lambda: row_count(root) > len(held), "a new row")
    trap.touch()
    until(process, lambda: not trap.exists(), "an engine that hangs")
    stop = ["ray", "job", "stop", f"--address={cluster.dashboard}", job]
    code, out, err = runs.finish(cluster.start(stop, cwd=source))
    assert code == 0, out + err
    process.communicate()
    assert cluster.wait(lambda: ended(cluster, job), "the job's end")["status"] == "STOPPED"
    assert state(root) == "stopped", "it was killed before its drain_s was over"
    assert not (root / "lease.json").exists()
    assert held.items() < measured(root).items()
    return measured(root)
