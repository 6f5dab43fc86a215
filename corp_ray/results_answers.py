"""What models of several runs write on the test items: how answers begin, and what voters solve.

Where gains stop is seen here: a way of answering that one candidate finds as well, and items that
no candidate solves. Reads run directories with a comparison and its rows; needs no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from corp_ray.baselines import ranking
from corp_ray.errors import ConfigError
from corp_ray.outcomes import openings, solved_shares
from corp_ray.records import Evaluation
from corp_ray.results_files import comparisons_of
from corp_ray.scored_run import ScoredRun

FORMAT = "corp_ray answers 1"


def answers(addresses: Sequence[str]) -> dict[str, Any]:
    """Per run: `openings` of base, best single candidate and round 0's update before the gate (see
    `outcomes.openings`), and of the `voters` their count, mean and best reward, and the share of
    items that any of them solves.

    Errors: ConfigError for a run without a comparison, or without the rows that it rests on.
    """
    found = []
    for address, compared in comparisons_of(addresses).items():
        means = {row["name"]: row for row in compared["rows"]}
        models, voters = _rows(address, compared, means)
        rewards_KE = np.array([voter.rewards for voter in voters])
        found.append(
            {
                "task": compared["task"],
                "seed": compared["seed"],
                "means": {name: model.mean for name, model in models.items()},
                "openings": openings(models),
                "voters": {
                    "count": len(voters),
                    "mean": float(np.mean(rewards_KE)),
                    "best": float(np.max(np.mean(rewards_KE, axis=1))),
                    "any": 1.0 - solved_shares(rewards_KE)["none"],
                },
            }
        )
    found.sort(key=lambda one: (one["task"], one["seed"]))
    return {"format": FORMAT, "rows": found}


def _rows(
    address: str, compared: dict[str, Any], rows: dict[str, dict[str, Any]]
) -> tuple[dict[str, Evaluation], list[Evaluation]]:
    """Evaluations on the test split of base, best single and update, by the comparison's names,
    and of the voters, best first."""
    run = ScoredRun(address)
    population = run.population(0, compared["ensemble_population"])
    if not population or not rows.get("ungated", {}).get("chosen"):
        raise ConfigError(f"{address}: no rows of a population and its update to read answers from")
    origin = population[0].center_digest
    tested = {e.candidate.id: e for e in run.evaluations("test") if e.center_digest == origin}
    ranked = [population[at].candidate.id for at in ranking([e.mean for e in population])]
    center = next((name for name, e in tested.items() if e.candidate.kind == "center"), "")
    names = {"base": center, "best_single": ranked[0], "ungated": rows["ungated"]["chosen"]["id"]}
    missing = [name for name, own in names.items() if own not in tested]
    voters = [tested[voter] for voter in ranked[: compared["votes"]] if voter in tested]
    if not voters:
        missing.append("its voters")
    if missing:
        raise ConfigError(f"{address}: no row on the test split of {', '.join(missing)}")
    models = {name: tested[own] for name, own in names.items()}
    for name, model in models.items():
        if abs(model.mean - rows[name]["mean"]) > 1e-12:
            raise ConfigError(
                f"{address}: {name} has {model.mean:.6g} in the reward table, "
                f"{rows[name]['mean']:.6g} in report/compare.json; jobs.compare makes it anew"
            )
    return models, voters
