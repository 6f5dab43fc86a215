"""Fifty kills over one run, anywhere and whenever: the commit is the same, no row is made twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests import runs
from tests.on_cluster.watching import assert_same_and_once, key, measured, row_count, snapshot

KILLS = {"Scorer": 30, "node": 6, "Reducer": 6, "driver": 5, "Gate": 3}
LIMIT_S = 900.0
# A lost engine blames the candidate that it was at, which is set aside after three. Here nobody is
# to blame but the storm, and a candidate less would be another commit.
SETTINGS = ("ray.attempts=1000", "engine.options.delay_s=1.0", "ray.engines=0", "ray.wait_s=120")


class Storm:
    """Seeded kills, each due when the table has so many rows, or, for a gate, when there is one."""

    def __init__(self, cluster, source, config, root, journal, rows):
        self._cluster, self._source = cluster, source
        self._root, self._journal = root, journal
        self._command = [
            *(sys.executable, "-m", "jobs.posttrain", "--config", str(config)),
            *(f"run.directory={root.parent}", f"engine.options.journal={journal}", *SETTINGS),
        ]
        self._random = random.Random(20_261_124)
        kinds = [kind for kind, number in KILLS.items() if kind != "Gate" for _ in range(number)]
        self._random.shuffle(kinds)
        moments = sorted(self._random.choices(range(rows - 5), k=len(kinds)))
        self._due = list(zip(moments, kinds, strict=True))
        self._gates = KILLS["Gate"]
        self._seen: set[int] = set()
        self.killed: list[str] = []
        self.held: list[tuple[dict, int]] = []  # at each kill of the driver: rows, journal's length
        self._driver = self._start()

    def _start(self):
        return self._cluster.start(self._command, cwd=self._source, RAY_ADDRESS=self._cluster.gcs)

    def _actors(self, kind):
        """(node, process) of the actors of a class."""
        found = []
        for name in list(self._cluster.nodes):
            for pid in self._cluster.network.processes(name):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::" + kind):
                        found.append((name, pid))
        return found

    def rage(self):
        """Kill until all is killed that was planned; what the run says at its end."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.killed) < sum(KILLS.values()):
            said = f"after {len(self.killed)} kills, {row_count(self._root)} rows"
            assert self._driver.poll() is None, (said, self._driver.communicate())
            assert time.monotonic() < deadline, said
            if self._gates and self._kill_actor(b"Gate"):
                self._gates -= 1
            if self._due and row_count(self._root) >= self._due[0][0]:
                kind = self._due[0][1]
                if self._kill(kind):
                    self.killed.append(kind)
                    del self._due[0]
            time.sleep(0.2)
        return runs.finish(self._driver)

    def _kill(self, kind):
        """Whether there was one to kill."""
        if kind == "driver":
            return self._kill_driver()
        return self._kill_node() if kind == "node" else self._kill_actor(kind.encode())

    def _kill_actor(self, kind):
        """Each process once: one that is dying counts as dead."""
        found = [pid for _, pid in self._actors(kind) if pid not in self._seen]
        if not found:
            return False
        pid = self._random.choice(found)
        self._seen.add(pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        if kind == b"Gate":
            self.killed.append("Gate")
        return True

    def _kill_node(self):
        """One with an engine on it, by its plug or by SIGKILL alone; another one starts."""
        found = sorted({name for name, _ in self._actors(b"Scorer")})
        if not found:
            return False
        node = self._cluster.nodes[self._random.choice(found)]
        self._cluster.kill_node(node, cable=self._random.random() < 0.5)
        self._cluster.start_node(num_cpus=2, wait=False)
        return True

    def _kill_driver(self):
        """In work: not before it has an engine."""
        if not self._actors(b"Scorer"):
            return False
        self._driver.kill()
        self._driver.communicate()
        self.held.append((snapshot(self._root), len(begun(self._journal))))
        self._driver = self._start()
        return True


def begun(journal):
    """Seeds of the candidates that engines began to score on support, in that order."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [int(seed) for prompts, seed in map(str.split, lines) if prompts == "120"]


@pytest.mark.timeout(1200)  # three minutes on an idle machine of two cores
def test_fifty_kills_change_nothing_and_no_row_is_made_twice(
    cluster, source, undisturbed, tmp_path
):
    config, files = undisturbed
    root, journal = tmp_path / "run", tmp_path / "journal"
    rows = row_count(config.parent / "runs/run")
    storm = Storm(cluster, source, config, root, journal, rows)
    code, out, err = storm.rage()
    assert code == 0, out + err
    assert {kind: storm.killed.count(kind) for kind in KILLS} == KILLS
    assert not (root / "set_aside.jsonl").exists()
    assert_same_and_once(root, files)
    final, scored = measured(root), begun(journal)
    support = [row for row in runs.rows(root) if row["split"] == "support"]
    seeds = {key(row): row["seeds"][0] for row in support if len(row["seeds"]) == 1}
    for held, length in storm.held:
        assert held.items() <= final.items(), "rows that were on disk are others now"
        done = {seeds[row] for row in held if row in seeds}
        assert done.isdisjoint(scored[length:]), "rows that were on disk were scored again"
    assert any(held for held, _ in storm.held)
