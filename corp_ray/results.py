"""Several runs' comparisons as one set of results: a JSON document, and its tables for people.

The figures of merit are those of the method's paper (CoRP, arXiv 2605.31494): mean gain of the
committed model over its base and over the best single candidate, and the share of the vote
ensemble's gain that it recovers. A run that abstained ships its base and counts with gain 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.errors import ConfigError

FORMAT = "corp_ray results 1"
# Must be equal in all runs: the table's columns would not mean one thing otherwise.
_ALIKE = ("model", "population", "ensemble_population", "votes")
_OURS, _BASE, _SINGLE, _VOTE = "committed", "base", "best_single", "majority_vote"


def collect(comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The results of runs, given each run's report/compare.json by its address.

    Errors: ConfigError for none, for two that are not alike, or one task and seed twice.
    """
    if not comparisons:
        raise ConfigError("results: no run was named; expected run directories with a comparison")
    first_name, first = next(iter(comparisons.items()))
    seen: dict[tuple[str, int], str] = {}
    for name, one in comparisons.items():
        for key in _ALIKE:
            if one[key] != first[key]:
                raise ConfigError(
                    f"{name}: {key} is {one[key]!r}, in {first_name} it is {first[key]!r}; "
                    "one table needs runs that are alike"
                )
        place = (one["task"], one["seed"])
        if place in seen:
            raise ConfigError(f"{name}: {one['task']}, seed {one['seed']} is in {seen[place]} too")
        seen[place] = name
    runs = [
        {
            "task": one["task"],
            "seed": one["seed"],
            "examples": one["examples"],
            "split_digest": one["split_digest"],
            "abstained": _row(one, _OURS)["abstained"],
            "rows": one["rows"],
        }
        for one in sorted(comparisons.values(), key=lambda one: (one["task"], one["seed"]))
    ]
    return {
        "format": FORMAT,
        **{key: first[key] for key in _ALIKE},
        "runs": len(runs),
        "abstained": sum(one["abstained"] for one in runs),
        "mean_gain_over_base": _amount([_mean(one, _OURS) - _mean(one, _BASE) for one in runs]),
        "mean_gain_over_best_single": _amount(
            [_mean(one, _OURS) - _mean(one, _SINGLE) for one in runs]
        ),
        "mean_ensemble_gain_over_base": _amount(
            [_mean(one, _VOTE) - _mean(one, _BASE) for one in runs]
        ),
        "share_of_ensemble_gain": _share(runs),
        "methods": _methods(runs),
        "rows": runs,
    }


def _row(one: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = next((row for row in one["rows"] if row["name"] == name), None)
    if found is None:
        raise ConfigError(f"{one['task']}, seed {one['seed']}: its comparison has no row {name!r}")
    return found


def _mean(one: Mapping[str, Any], name: str) -> float:
    return float(_row(one, name)["mean"])


def _amount(gains: Sequence[float]) -> dict[str, float | None]:
    """A mean over runs as a fraction and in points, with its standard error (None for one run)."""
    mean = statistics.fmean(gains)
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
    return {
        "fraction": mean,
        "points": 100 * mean,
        "standard_error_points": None if error is None else 100 * error,
    }


def _share(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean gain over mean gain of the ensemble; None where the ensemble gained nothing."""
    ours = statistics.fmean(_mean(one, _OURS) - _mean(one, _BASE) for one in runs)
    theirs = statistics.fmean(_mean(one, _VOTE) - _mean(one, _BASE) for one in runs)
    share = ours / theirs if theirs > 0 else None
    return {"fraction": share, "points": None if share is None else 100 * share}


def _methods(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every row's means over the runs, in the order of the comparison."""
    found = []
    for row in runs[0]["rows"]:
        each = [_row(one, row["name"]) for one in runs]
        found.append(
            {
                "name": row["name"],
                "label": row["label"],
                "mean": statistics.fmean(one["mean"] for one in each),
                "gain": _amount([one["gain"] for one in each]),
                "above_base": sum(one["low"] > 0 for one in each),
                "below_base": sum(one["high"] < 0 for one in each),
                "forward_passes": statistics.fmean(one["forward_passes"] for one in each),
                "generated_tokens_per_item": statistics.fmean(
                    one["generated_tokens_per_item"] for one in each
                ),
                "search_candidates": statistics.fmean(one["search"]["candidates"] for one in each),
                "search_answers": statistics.fmean(one["search"]["answers"] for one in each),
            }
        )
    return found
