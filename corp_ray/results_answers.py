"""What models of several runs write on the test items: how answers begin, and what voters solve.

Where gains stop is seen here: a way of answering that one candidate finds as well, and items that
no candidate solves. Reads run directories with a comparison and its rows; needs no Ray.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corp_ray.baselines import ranking
from corp_ray.errors import ConfigError
from corp_ray.outcomes import openings, solved_shares
from corp_ray.records import Candidate, Evaluation
from corp_ray.results_files import comparisons_of
from corp_ray.scored_run import ScoredRun

FORMAT = "corp_ray answers 1"


def answers(addresses: Sequence[str]) -> dict[str, Any]:
    """Per run: `openings` of base, best single candidate and round 0's update before the gate (see
    `outcomes.openings`); of the `voters` their count, mean and best reward, and the share of items
    that any of them solves; and of all `items`, and of the update's `fixes`, how many have an answer
    that needs no thought, since it is the most frequent one or stands in the question.

    Errors: ConfigError for a run without a comparison, or without the rows that it rests on.
    """
    found = []
    for address, compared in comparisons_of(addresses).items():
        means = {row["name"]: row for row in compared["rows"]}
        run = ScoredRun(address)
        models, voters = _rows(run, compared, means)
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
                **_thoughtless(run.questions("test"), models["base"], models["ungated"]),
            }
        )
    found.sort(key=lambda one: (one["task"], one["seed"]))
    return {"format": FORMAT, "rows": found}


def _thoughtless(
    questions: Sequence[Mapping[str, str]], base: Evaluation, update: Evaluation
) -> dict[str, Any]:
    """`items` and `fixes`: how many there are, with the most frequent answer, with one that stands
    in the question. Nothing for a run that has not kept its questions."""
    if len(questions) != len(base.rewards):
        return {"common": None, "items": None, "fixes": None}
    ((common, _),) = Counter(one["answer"] for one in questions).most_common(1)
    frequent = np.array([one["answer"] == common for one in questions])
    stands = np.array([_stands(one["answer"], one["question"]) for one in questions])
    fixed = np.array(update.rewards) > np.array(base.rewards)
    return {
        "common": common,
        **{
            name: {
                "count": int(np.sum(those)),
                "common": int(np.sum(frequent & those)),
                "in_question": int(np.sum(stands & those)),
            }
            for name, those in (("items", np.ones_like(fixed)), ("fixes", fixed))
        },
    }


def _stands(answer: str, question: str) -> bool:
    """Whether an answer is in the question, not as a part of a longer word or number."""
    return bool(re.search(rf"(?<![\w.]){re.escape(answer)}(?![\w]|\.\d)", question))


def _direction(chosen: Mapping[str, Any], around: Sequence[Evaluation]) -> str:
    """A chosen proposal's digest; comparisons made before it was kept there have its name alone."""
    by_name = {e.candidate.id: e.candidate.digest for e in around}
    return str(chosen.get("direction") or by_name.get(chosen["id"], ""))


def _rows(
    run: ScoredRun, compared: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Evaluation], list[Evaluation]]:
    """Evaluations on the test split of base, best single and update, by the comparison's names,
    and of the voters, best first."""
    address = run.address
    population = run.population(0, compared["ensemble_population"])
    if not population or not rows.get("ungated", {}).get("chosen"):
        raise ConfigError(f"{address}: no rows of a population and its update to read answers from")
    origin = population[0].center_digest
    around = [e for e in run.evaluations("test") if e.center_digest == origin]
    tested = {e.candidate.digest: e for e in around}
    ranked = [population[at].candidate.digest for at in ranking([e.mean for e in population])]
    names = {
        "base": Candidate("", "center", 0).digest,
        "best_single": ranked[0],
        "ungated": _direction(rows["ungated"]["chosen"], around),
    }
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
