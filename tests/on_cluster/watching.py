"""A run seen from outside while it is disturbed: its rows on disk, its actors on the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests import runs

_LIMIT_S = 500.0


def row_count(root: Path) -> int:
    """Rows on disk; parts that are merged away in this moment are looked for again."""
    while True:
        try:
            parts = list((root / "rewards").glob("*.parquet"))
            return sum(pq.read_metadata(part).num_rows for part in parts)
        except FileNotFoundError:
            continue


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["center_digest"], row["split"], row["direction_digest"]


def snapshot(root: Path) -> dict[tuple[str, str, str], float]:
    """Seconds by row key: scoring a row again would change them. Rows that a killed driver was
    merging may be there twice."""
    return {key(row): row["seconds"] for row in runs.rows(root)}


def measured(root: Path) -> dict[tuple[str, str, str], float]:
    """`snapshot` of a table without a driver; fails when a row is there twice."""
    found = snapshot(root)
    assert len(found) == len(runs.rows(root)), "rows are there twice"
    return found


def assert_same_and_once(root: Path, files: dict[str, bytes]) -> None:
    """The committed bytes, and one row per center, split and direction over all parts."""
    assert runs.commit_files(root) == files
    assert measured(root)


def until(process: Any, condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition` while a process runs."""
    deadline = time.monotonic() + _LIMIT_S
    while not (value := condition()):
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no {what} within {_LIMIT_S:.0f} s"
        time.sleep(0.05)
    return value


def engines(cluster: Any, run_id: str, *, dead: bool = False) -> list[dict[str, Any]]:
    """The scorer actors of a run that have been given a node."""
    return [
        actor
        for actor in cluster.actors(dead=dead)
        if (actor["name"] or "").startswith(f"corp_ray/{run_id}/scorer/") and actor["node_id"]
    ]


def state(root: Path) -> str:
    """What the driver last said of itself."""
    return json.loads((root / "progress.json").read_text())["state"]
