"""Two drivers whose clocks are days apart, as if on two machines, and one run id.

libfaketime turns the clock of the driver alone; Ray's own processes keep the right one. A boot id of
its own makes the lease take the other driver for one on another machine, where only its beats
tell whether it lives.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import runs

PRELOAD = Path(pytest.importorskip("libfaketime").__file__).parent.joinpath(
    "vendor/libfaketime/src/libfaketime.so.1"
)
AHEAD, BEHIND = "+1d", "-1d"
MOUNT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@"'
ELSEWHERE = ("unshare", "--mount", "sh", "-ec", MOUNT)

pytestmark = pytest.mark.skipif(
    not PRELOAD.exists()
    or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0,
    reason="no libfaketime for this machine, or no mount namespaces (they need root)",
)


def clock(offset):
    """Environment of a process whose wall clock is off; waiting and timeouts stay as they are."""
    return {"LD_PRELOAD": str(PRELOAD), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def start(cluster, source, config, offset):
    boot = config.with_name(f"boot{offset}")
    boot.write_text(f"a boot of the machine with {offset}\n")
    job = [sys.executable, "-m", "jobs.posttrain", "--config", str(config)]
    command = [*ELSEWHERE, str(boot), *job]
    return cluster.start(command, cwd=source, RAY_ADDRESS=cluster.gcs, **clock(offset))


def until_rows(process, root, least):
    while not (root / "rewards").is_dir() or len(runs.rows(root)) < least:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def keys(root):
    return [(r["center_digest"], r["split"], r["direction_digest"]) for r in runs.rows(root)]


def test_a_turned_clock_is_a_day_off():
    code = "import time; print(time.time())"
    for offset, days in ((AHEAD, 1), (BEHIND, -1)):
        environment = {**os.environ, **clock(offset)}
        out = subprocess.check_output([sys.executable, "-c", code], env=environment)
        assert float(out) - time.time() == pytest.approx(days * 86400, abs=60)


def test_clocks_days_apart_exclude_each_other_and_a_dead_one_is_followed(cluster, source, tmp_path):
    """Each of the two is refused while the other lives, and takes over when it is gone."""
    settings = {"engine.options.delay_s": 0.4, "ray.engines": 1, "population.size": 200}
    config = runs.workspace(tmp_path, **settings)
    root = tmp_path / "runs/run"
    held = set()
    for mine, other in ((AHEAD, BEHIND), (BEHIND, AHEAD)):
        living = start(cluster, source, config, mine)
        try:
            until_rows(living, root, len(held) + 1)
            assert mine in json.loads((root / "lease.json").read_text())["machine"]
            code, _, err = runs.finish(start(cluster, source, config, other))
            assert code == 2, err
            assert "another driver is at work there" in err.splitlines()[-1]
            assert living.poll() is None, "it ended before the other was refused"
        finally:
            living.send_signal(signal.SIGKILL)
            living.communicate()
        assert held < set(keys(root))
        held = set(keys(root))
        assert len(keys(root)) == len(held)
