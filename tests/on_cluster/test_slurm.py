"""docker/slurm.sbatch, run for real: Ray processes of this machine, started by stand-ins for Slurm.

The stand-in srun starts its command here, whatever node it names; nothing else is pretended.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "slurm.sbatch"

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
  [[ $1 == --nodelist=* ]] && node=${1#*=}
  shift
done
[[ $node == "${STUCK_NODE:-}" ]] && exec sleep 600
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) tr , '\\n' <<<"$3" ;;
  *) echo "$@" >>"$SCONTROL_LOG" ;;
esac
"""
JOB = """
import os, signal, sys, time
import ray

def drain(number, frame):
    open("drained", "w").close()
    sys.exit(143)

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
where = ray.remote(lambda: ray.get_runtime_context().get_node_id())
work = {ray.get(where.options(label_selector={"ray.io/node-id": node}).remote()) for node in nodes}
print(os.environ["RAY_ADDRESS"], len(nodes), work == set(nodes), flush=True)
if sys.argv[1:] == ["forever"]:
    signal.signal(signal.SIGTERM, drain)
    open("running", "w").close()
    time.sleep(600)
sys.exit(7)
"""


def is_running(mark: str) -> list[str]:
    """Process ids that carry the mark in their environment, the dead but unreaped left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
    return found


class Allocation:
    """Two 'nodes' of a Slurm job on this machine, and what belongs to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.scratch = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # short: socket paths
        self.job_id = os.getpid() * 10 + len(list(folder.parent.iterdir()))
        self.mark = f"CORP_MARK={self.scratch.name}"
        self.calls = folder / "scontrol.log"
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "job.py").write_text(JOB)

    @property
    def port(self) -> int:
        return 20000 + 10 * (self.job_id % 1200)

    def start(self, *command: str, **environment: str) -> subprocess.Popen:
        small = "--object-store-memory=80000000 --include-log-monitor=false"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "RAY_ADDRESS"))
        }
        # Files, not pipes: a process that is left running would hold a pipe open for ever.
        return subprocess.Popen(
            ["bash", str(SCRIPT), *command],
            cwd=self.folder,
            env={
                **clean,
                "PATH": f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "CORP_MARK": self.scratch.name,
                "CORP_HEAD_IP": "127.0.0.1",
                "CORP_JOIN_S": "240",
                "CORP_HEAD_ARGS": f"{small} --temp-dir={self.scratch}/h --include-dashboard=false",
                "CORP_WORKER_ARGS": f"{small} --temp-dir={self.scratch}/w "
                f"--dashboard-agent-listen-port={self.port + 5}",
                "SCONTROL_LOG": str(self.calls),
                "SLURM_CPUS_PER_TASK": "1",
                "SLURM_JOB_ID": str(self.job_id),
                "SLURM_JOB_NODELIST": "n1,n2",
                **environment,
            },
            stdout=(self.folder / "out").open("w"),
            stderr=(self.folder / "err").open("w"),
        )

    def finish(self, process: subprocess.Popen, timeout_s: float = 400) -> tuple[int, str, str]:
        code = process.wait(timeout_s)
        return code, (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def wait_for(self, name: str, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 300
        while not (self.folder / name).exists():
            assert process.poll() is None, self.finish(process)
            assert time.monotonic() < deadline, name
            time.sleep(0.2)


@pytest.fixture
def allocation(tmp_path):
    made = Allocation(tmp_path)
    yield made
    for process_id in is_running(made.mark):
        os.kill(int(process_id), signal.SIGKILL)
    shutil.rmtree(made.scratch, ignore_errors=True)


def left_over(allocation: Allocation) -> list[str]:
    """What still runs some seconds after the script has ended."""
    deadline = time.monotonic() + 20
    while is_running(allocation.mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [
        Path(f"/proc/{process_id}/cmdline").read_text().replace("\0", " ")
        for process_id in is_running(allocation.mark)
    ]


def test_the_command_runs_once_all_nodes_have_joined_and_its_exit_code_is_the_jobs(
    allocation, ray_address
):
    code, out, err = allocation.finish(allocation.start("python", "job.py"))
    assert code == 7, err
    assert f"127.0.0.1:{allocation.port} 2 True" in out
    assert "slurm.sbatch: 2 of 2 nodes joined" in err
    assert "the command ended with exit code 7" in err
    assert left_over(allocation) == []
    assert not allocation.calls.exists()
    ask = "import ray, sys; ray.init(address=sys.argv[1]); sys.exit(len(ray.nodes()) != 1)"
    unrelated = subprocess.run([sys.executable, "-c", ask, ray_address], capture_output=True)
    assert unrelated.returncode == 0, unrelated.stderr


@pytest.mark.parametrize(("seconds_left", "requeued"), [(100, True), (100_000, False)])
def test_sigterm_reaches_the_command_and_only_the_time_limit_requeues(
    allocation, seconds_left, requeued
):
    end = str(int(time.time()) + seconds_left)
    process = allocation.start(
        "python", "job.py", "forever", CORP_REQUEUE="1", SLURM_JOB_END_TIME=end
    )
    allocation.wait_for("running", process)
    process.send_signal(signal.SIGTERM)
    code, _, err = allocation.finish(process)
    assert code == 143, err
    assert (allocation.folder / "drained").exists()
    assert allocation.calls.exists() == requeued
    if requeued:
        assert allocation.calls.read_text() == f"requeue {allocation.job_id}\n"
    assert left_over(allocation) == []


def test_a_node_that_does_not_join_ends_the_job_with_one_line(allocation):
    process = allocation.start("touch", "ran", CORP_JOIN_S="25", STUCK_NODE="n2")
    code, _, err = allocation.finish(process)
    assert code == 1, err
    line = f"slurm.sbatch: [01] of 2 nodes joined 127.0.0.1:{allocation.port} in 25 s"
    assert len(re.findall(line, err)) == 1
    assert not (allocation.folder / "ran").exists()
    assert left_over(allocation) == []


def test_a_head_that_ends_is_noticed_before_the_time_is_up(allocation):
    process = allocation.start("touch", "ran", CORP_HEAD_ARGS="--port=-5")
    code, _, err = allocation.finish(process)
    assert code == 1, err
    assert "a Ray process ended while 0 of 2 nodes had joined" in err
    assert left_over(allocation) == []


def test_without_a_command_or_without_slurm_it_says_what_is_missing(allocation):
    code, _, err = allocation.finish(allocation.start())
    assert (code, "no command" in err) == (2, True)
    code, _, err = allocation.finish(allocation.start("true", SLURM_JOB_ID=""))
    assert (code, "SLURM_JOB_ID is not set" in err) == (2, True)
