"""What report.json holds: every number of a run's report, from its directory alone. No drawing.

docs/method.md, "The report", names the parts. A part that the run has not come to yet is None or
empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from corp_ray import config as configuration
from corp_ray.diagnosis import stored
from corp_ray.report.cost import cost
from corp_ray.report.members import Row, is_ambiguous, members, of_round
from corp_ray.report.outcome import flips, summary, tested_rows
from corp_ray.report.verdict import verdict_sentence
from corp_ray.scored_run import ScoredRun
from corp_ray.settings import Config

FORMAT = "corp_ray report 1"


def content(
    run: ScoredRun,
    status: Mapping[str, Any],
    diagnose: Callable[[ScoredRun], dict[str, Any] | None] = lambda run: None,
) -> dict[str, Any]:
    """report.json's content as plain data without NaN. `status` as `status.read_status` gives it;
    `diagnose` makes what report/diagnosis.json would hold where that is not there, or not of
    round 0 as it stands; or None."""
    rows, rounds = run.scores(), run.rounds()
    answered = tested_rows(run, rounds)
    environment = run.document("environment.json") or {}
    found = {
        "format": FORMAT,
        "run": status["run"] or run.root.name,
        "model": status["model"],
        "task": status["task"],
        "seed": run.config.get("run", {}).get("seed", 0),
        "state": status["state"],
        "reason": status["reason"],
        "commits": status["commits"],
        "summary": summary(run, rows, rounds, answered),
        "population": _population(run, rows),
        "rounds": _rounds(rows, rounds),
        "grids": [_grid(rows, one) for one in rounds if one["proposals"]],
        "gate": _looks(run, rounds),
        "diagnosis": stored(run) or diagnose(run),
        "flips": flips(run, rounds, answered),
        "cost": cost(run, status, rows),
        "configuration": _configuration(run),
        "environment": environment,
    }
    found["verdict"] = verdict_sentence(found)
    return _finite(found)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, mean and quartiles (linear) of some numbers."""
    low, lower, middle, upper, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {
        "count": len(values),
        "mean": float(np.mean(values)),
        "minimum": low,
        "lower_quartile": lower,
        "median": middle,
        "upper_quartile": upper,
        "maximum": high,
    }


def _finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _center(rows: Sequence[Row], split: str, digest: str) -> float | None:
    """The mean of the center with this digest on a split."""
    means = [
        row["mean"]
        for row in rows
        if row["kind"] == "center" and row["split"] == split and row["center"] == digest
    ]
    return means[0] if means else None


def _population(run: ScoredRun, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Round 0's candidates with their rewards on support, and their spread at every sigma."""
    size = run.config.get("population", {}).get("size", Config().population.size)
    scored = members(rows, 0, size)
    if not scored:
        return None
    best = max(scored, key=lambda row: row["mean"])  # the first of equals
    sigmas = sorted({row["sigma"] for row in scored})
    return {
        "size": size,
        "scored": len(scored),
        "examples": scored[0]["examples"],
        "base": _center(rows, "support", scored[0]["center"]),
        "best": {"id": best["id"], "mean": best["mean"], "sigma": best["sigma"]},
        "spread": spread([row["mean"] for row in scored]),
        "sigmas": [
            {"sigma": sigma, **spread([row["mean"] for row in scored if row["sigma"] == sigma])}
            for sigma in sigmas
        ],
        "candidates": [
            {"id": row["id"], "sigma": row["sigma"], "mean": row["mean"]} for row in scored
        ],
    }


def _rounds(rows: Sequence[Row], rounds: Sequence[Row]) -> list[dict[str, Any]]:
    found = []
    for one in rounds:
        known = [] if is_ambiguous(rows, one) else of_round(rows, one)
        means = [row["mean"] for row in known]
        found.append(
            {
                "round": one["round"],
                "population": one["population"],
                "set_aside": one["set_aside"],
                "center": one["support"]["center"],
                "median": spread(means)["median"] if means else None,
                "best": one["support"]["best"]["mean"],
                "sigma": one["sigma"],
                "isotropic_share": one["isotropic_share"],
                "accepted": one["accepted"],
                "reason": one["reason"],
            }
        )
    return found


def _grid(rows: Sequence[Row], one: Row) -> dict[str, Any]:
    """A round's proposals on validation; `base` is what its center has there."""
    proposals = one["proposals"]
    return {
        "round": one["round"],
        "base": _center(rows, "validation", one["center"]["digest"]),
        "chosen": one["best"],
        "accepted": one["accepted"],
        "quantiles": sorted({p["quantile"] for p in proposals}),
        "inverse_temperatures": sorted({p["inverse_temperature"] for p in proposals}),
        "steps": sorted({p["step"] for p in proposals}),
        "proposals": proposals,
    }


def _decided(run: ScoredRun, rounds: Sequence[Row]) -> Iterator[tuple[Row, bool]]:
    """All rounds with whether they rested on a smaller population."""
    superseded = run.root / "superseded"
    for folder in superseded.folders():
        for name in (superseded / folder / "rounds").names("*.json"):
            found = run.document(f"superseded/{folder}/rounds/{name}")
            if found is not None:
                yield found, True
    for one in rounds:
        yield one, False


def _looks(run: ScoredRun, rounds: Sequence[Row]) -> list[dict[str, Any]]:
    """Every look at the gate in order, those before an extension included."""
    threshold = run.config.get("gate", {}).get("min_gain", Config().gate.min_gain)
    looks = [
        {"round": one["round"], "superseded": before, "threshold": threshold, **one["verdict"]}
        for one, before in _decided(run, rounds)
        if one["verdict"]
    ]
    return sorted(looks, key=lambda look: (look["look"], not look["superseded"]))


def _configuration(run: ScoredRun) -> list[dict[str, Any]]:
    """Every setting with its default, those that differ first."""
    defaults = dict(configuration.flat(configuration.to_dict(Config()), empty=True))
    settings = [
        {"setting": name, "value": value, "default": defaults.get(name), "differs": differs}
        for name, value in configuration.flat(run.config, empty=True)
        for differs in [value != defaults.get(name)]
    ]
    return sorted(settings, key=lambda one: not one["differs"])
