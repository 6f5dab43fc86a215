"""What a run took: time of its phases, rows, tokens and engine time of its splits, idle engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.run_directory import METRICS, lines
from corp_ray.scored_run import ScoredRun
from corp_ray.tasks.splits import NAMES


def cost(
    run: ScoredRun, status: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Seconds are durations: `phases` and `wall_s` of all drivers, `engines` of the last one.

    `engine_s` adds the seconds that engines took for the rows there are.
    """
    phases = [
        {"phase": line["phase"], "seconds": line["seconds"], "rows": line["rows"]}
        for line in lines(run.root, METRICS)
        if {"phase", "seconds", "rows"} <= line.keys()
    ]
    progress = status["progress"] or {}
    engines = progress.get("engines") or {}
    return {
        "wall_s": sum(line["seconds"] for line in phases),
        "engine_s": sum(row["seconds"] for row in rows),
        "generated_tokens": sum(row["tokens"] for row in rows),
        "rows": len(rows),
        "answers": sum(row["examples"] for row in rows),
        "idle_share": engines.get("idle_share"),
        "engines": engines.get("ready"),
        "engines_replaced": status["restarts"],
        "set_aside": len(status["set_aside"]),
        "phases": phases,
        "splits": [
            _split(name, [row for row in rows if row["split"] == name])
            for name in NAMES
            if any(row["split"] == name for row in rows)
        ],
    }


def _split(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "split": name,
        "rows": len(rows),
        "answers": sum(row["examples"] for row in rows),
        "wrong_format": sum(row["wrong_format"] for row in rows),
        "verifier_errors": sum(row["verifier_errors"] for row in rows),
        "generated_tokens": sum(row["tokens"] for row in rows),
        "engine_s": sum(row["seconds"] for row in rows),
    }
