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
PAIRS_FORMAT = "corp_ray paired results 1"
STRUCTURE_FORMAT = "corp_ray structure 1"
ROUNDS_FORMAT = "corp_ray rounds 1"
ROUNDING_FORMAT = "corp_ray rounding 1"
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
    for name, one in comparisons.items():
        for key in _ALIKE:
            if one[key] != first[key]:
                raise ConfigError(
                    f"{name}: {key} is {one[key]!r}, in {first_name} it is {first[key]!r}; "
                    "one table needs runs that are alike"
                )
    runs = [
        {
            "task": one["task"],
            "seed": one["seed"],
            "examples": one["examples"],
            "split_digest": one["split_digest"],
            "abstained": _row(one, _OURS)["abstained"],
            "rows": one["rows"],
        }
        for _, (_, one) in sorted(_by_place(comparisons).items())
    ]
    return {
        "format": FORMAT,
        **{key: first[key] for key in _ALIKE},
        "runs": len(runs),
        "abstained": sum(one["abstained"] for one in runs),
        "mean_gain_over_base": _amount(runs, _gains(runs, _OURS, _BASE)),
        "mean_gain_over_best_single": _amount(runs, _gains(runs, _OURS, _SINGLE)),
        "mean_ensemble_gain_over_base": _amount(runs, _gains(runs, _VOTE, _BASE)),
        "share_of_ensemble_gain": _share(runs),
        "methods": _methods(runs),
        "rows": runs,
    }


def pair(
    ours: Mapping[str, Mapping[str, Any]],
    theirs: Mapping[str, Mapping[str, Any]],
    row: str,
    against_row: str,
) -> dict[str, Any]:
    """One row of runs against a row of others, run by run on the same task, seed and test items.

    Both by address, as for `collect`; they may be the same runs. What is in `ours` alone is left
    out. Errors: ConfigError for a run of `theirs` without a partner, other test items, another
    model, or a row that is not there.
    """
    partners = _by_place(ours)
    rows: list[dict[str, Any]] = []
    for place, (name, other) in sorted(_by_place(theirs).items()):
        if place not in partners:
            raise ConfigError(f"{name}: no run of {place[0]}, seed {place[1]}, to compare it with")
        own_name, own = partners[place]
        for key in ("model", "split_digest"):
            if own[key] != other[key]:
                raise ConfigError(
                    f"{name}: {key} is {other[key]!r}, in {own_name} it is {own[key]!r}; "
                    "a pair needs the same test items and model"
                )
        means = _mean(own, row), _mean(other, against_row)
        rows.append(
            {
                "task": place[0],
                "seed": place[1],
                "base": _mean(own, _BASE),
                "mean": means[0],
                "against": means[1],
                "against_base": _mean(other, _BASE),
                "difference": means[0] - means[1],
            }
        )
    if not rows:
        raise ConfigError("results: no run to compare with was named")
    return {
        "format": PAIRS_FORMAT,
        "row": row,
        "against_row": against_row,
        "runs": len(rows),
        "mean_gain_over_base": _amount(rows, [one["mean"] - one["base"] for one in rows]),
        "mean_gain_of_the_other": _amount(
            rows, [one["against"] - one["against_base"] for one in rows]
        ),
        "mean_difference": _amount(rows, [one["difference"] for one in rows]),
        "rows": rows,
    }


# What is kept of a diagnosis beside its outcomes: how much structure there is, and from what.
_KEPT = (
    "candidates",
    "examples",
    "center",
    "halvings",
    "permutations",
    "undefined",
    "reliability",
    "direction_cosine",
    "subspace_overlap",
    "components",
)


def structure(diagnoses: Sequence[tuple[str, int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Populations' diagnoses (`diagnosis.diagnose`) side by side, each with its task and seed.

    Errors: ConfigError for none, or for two with unequal numbers of halvings or permutations.
    """
    if not diagnoses:
        raise ConfigError("results: no run was named; expected run directories with a population")
    _, _, first = diagnoses[0]
    rows = []
    for task, seed, one in diagnoses:
        for key in ("halvings", "permutations"):
            if one[key] != first[key]:
                raise ConfigError(
                    f"{task}, seed {seed}: diagnosed with {one[key]} {key}, another with "
                    f"{first[key]}; make both anew with jobs.diagnose"
                )
        outcomes = {key: one["outcomes"][key] for key in ("solved_by", "best", "elite")}
        rows.append(
            {"task": task, "seed": seed, **{key: one[key] for key in _KEPT}, "outcomes": outcomes}
        )
    rows.sort(key=lambda row: (row["task"], row["seed"], row["candidates"]))
    return {"format": STRUCTURE_FORMAT, "rows": rows}


def rounds(found: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What decided rounds found, given each one's record (`round_record.round_record`) and its run.

    `center` and `best` are mean rewards on support, `constructive` counts the candidates that gain
    more than they lose; `gate` is the verdict on the best proposal, None where it was not asked.
    Errors: ConfigError for none.
    """
    if not found:
        raise ConfigError("results: no round is decided in these runs")
    rows = []
    for run, record in found:
        support = record["support"]
        rows.append(
            {
                "run": run,
                "round": record["round"],
                "candidates": record["population"] - record.get("set_aside", 0),
                "center": support["center"],
                "best": support["best"]["mean"],
                "constructive": sum(score > 0 for score in support["constructive"].values()),
                "gate": record["verdict"],
                "accepted": record["accepted"],
                "reason": record["reason"],
            }
        )
    return {"format": ROUNDS_FORMAT, "rows": rows}


def rounding(found: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What rounding left of each run's best step, given its diagnosis's part on it: norms before
    and after as root mean squares, the share of weights that changed, the cosine of both changes.

    Errors: ConfigError for none.
    """
    if not found:
        raise ConfigError("results: no run was named; expected run directories with a diagnosis")
    rows = [
        {
            "run": run,
            **{key: one[key] for key in ("proposal", "accepted", "dtype")},
            **{key: one["total"][key] for key in ("nominal", "ratio", "changed", "cosine")},
        }
        for run, one in found
    ]
    return {"format": ROUNDING_FORMAT, "rows": rows}


def _by_place(
    comparisons: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[str, int], tuple[str, Mapping[str, Any]]]:
    """Address and comparison by task and seed. Errors: ConfigError for one of them twice."""
    found: dict[tuple[str, int], tuple[str, Mapping[str, Any]]] = {}
    for name, one in comparisons.items():
        place = (one["task"], one["seed"])
        if place in found:
            raise ConfigError(
                f"{name}: {one['task']}, seed {one['seed']} is in {found[place][0]} too"
            )
        found[place] = (name, one)
    return found


def _row(one: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = next((row for row in one["rows"] if row["name"] == name), None)
    if found is None:
        raise ConfigError(f"{one['task']}, seed {one['seed']}: its comparison has no row {name!r}")
    return found


def _mean(one: Mapping[str, Any], name: str) -> float:
    return float(_row(one, name)["mean"])


def _gains(runs: Sequence[Mapping[str, Any]], row: str, over: str) -> list[float]:
    return [_mean(one, row) - _mean(one, over) for one in runs]


def _amount(runs: Sequence[Mapping[str, Any]], gains: Sequence[float]) -> dict[str, float | None]:
    """The mean of a gain per run as a fraction and in points, with its standard error.

    Runs of one task share its items, so with several tasks the error is that of a mean of tasks
    (clusters); with one task that of a mean of its runs. None for one run.
    """
    mean = statistics.fmean(gains)
    by_task: dict[str, float] = {}
    for one, gain in zip(runs, gains, strict=True):
        by_task[one["task"]] = by_task.get(one["task"], 0.0) + gain - mean
    error = None
    if len(by_task) > 1:
        spread = math.sqrt(sum(off**2 for off in by_task.values()) / (len(by_task) - 1))
        error = spread * math.sqrt(len(by_task)) / len(gains)
    elif len(gains) > 1:
        error = statistics.stdev(gains) / math.sqrt(len(gains))
    return {
        "fraction": mean,
        "points": 100 * mean,
        "standard_error_points": None if error is None else 100 * error,
    }


def _share(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean gain over mean gain of the ensemble; None where the ensemble gained nothing."""
    ours = statistics.fmean(_gains(runs, _OURS, _BASE))
    theirs = statistics.fmean(_gains(runs, _VOTE, _BASE))
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
                "gain": _amount(runs, [one["gain"] for one in each]),
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
