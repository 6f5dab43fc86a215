"""How a population's rewards came about: per noise scale, per example, and by kind of outcome.

Pure numpy over evaluations of one split. See docs/method.md, "Diagnosis".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corp_ray.records import OUTCOMES, Evaluation

_NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*")
_WORD = 16  # characters of a word in an opening


def by_sigma(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Mean rewards of the candidates of each noise scale, ascending: count, mean, population sd,
    mean of the top half (rounded up), best."""
    means: dict[float, list[float]] = {}
    for evaluation in evaluations:
        means.setdefault(evaluation.candidate.sigma, []).append(evaluation.mean)
    found = []
    for sigma, values in sorted(means.items()):
        ordered = sorted(values, reverse=True)
        found.append(
            {
                "sigma": sigma,
                "candidates": len(ordered),
                "mean": float(np.mean(ordered)),
                "sd": float(np.std(ordered)),
                "top_half_mean": float(np.mean(ordered[: (len(ordered) + 1) // 2])),
                "best": ordered[0],
            }
        )
    return found


def solved_shares(rewards_NE: np.ndarray) -> dict[str, float]:
    """Shares of examples by how many candidates solve them, that is, have reward 1."""
    solvers_E = np.sum(rewards_NE >= 1.0, axis=0)
    none_E, all_E = solvers_E == 0, solvers_E == len(rewards_NE)
    parts = {"none": none_E, "some": ~(none_E | all_E), "all": all_E}
    return {name: float(np.mean(part_E)) for name, part_E in parts.items()}


def gain_by_outcome(center: Evaluation, candidates: Sequence[Evaluation]) -> dict[str, Any]:
    """The candidates' mean gain over the center, split by what the center's answer was.

    Per outcome of the center: its examples, and per candidate on average the gain in mean reward
    that comes from them (they add up to `gain`), fixes and regressions.
    """
    origin_E, came_E = np.array(center.rewards), np.array(center.outcomes)
    delta_KE = np.array([e.rewards for e in candidates]) - origin_E
    split = {}
    for outcome in OUTCOMES:
        part_KE = delta_KE[:, came_E == outcome]
        split[outcome] = {
            "examples": part_KE.shape[1],
            "gain": float(np.sum(part_KE) / delta_KE.size),
            "fixes": float(np.sum(part_KE > 0) / len(delta_KE)),
            "regressions": float(np.sum(part_KE < 0) / len(delta_KE)),
        }
    return {
        "candidates": len(candidates),
        "gain": float(np.mean(delta_KE)),
        "by_center_outcome": split,
    }


def summarise_outcomes(
    evaluations: Sequence[Evaluation], center: Evaluation | None, elite: Sequence[Evaluation]
) -> dict[str, Any]:
    """Examples by who solves them, counts of outcomes, and where gains over the center come from.

    Without the center's evaluation what is relative to it is None. `best` is the candidate of the
    highest mean reward, the first of them; `elite` those that the consolidation weighs.
    """
    rewards_NE = np.array([e.rewards for e in evaluations])
    counts = Counter(outcome for e in evaluations for outcome in e.outcomes)
    best = max(evaluations, key=lambda e: e.mean)  # the first of equals
    found: dict[str, Any] = {
        "solved_by": solved_shares(rewards_NE),
        "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
        "center_counts": None,
        "fixes_and_regressions": None,
        "best": None,
        "elite": None,
    }
    if center is None:
        return found
    of_center = Counter(center.outcomes)
    delta_NE = rewards_NE - np.array(center.rewards)
    found["center_counts"] = {outcome: of_center[outcome] for outcome in OUTCOMES}
    found["fixes_and_regressions"] = [
        {"id": e.candidate.id, "fixes": int(fixes), "regressions": int(regressions)}
        for e, fixes, regressions in zip(
            evaluations, np.sum(delta_NE > 0, axis=1), np.sum(delta_NE < 0, axis=1), strict=True
        )
    ]
    found["best"] = {"id": best.candidate.id, **gain_by_outcome(center, [best])}
    found["elite"] = gain_by_outcome(center, elite)
    return found


def opening(text: str) -> str:
    """The first two words of an answer, numbers as #, long words cut; empty for a blank one."""
    words = [_NUMBER.sub("#", word) for word in text.split(maxsplit=2)[:2]]
    return " ".join(word if len(word) <= _WORD else word[: _WORD - 1] + "…" for word in words)


def openings(sides: Mapping[str, Evaluation], shown: int = 5) -> list[dict[str, Any]]:
    """How answers of models to the same examples begin, and what each beginning earns.

    Per `opening` and side: its share of the examples, their mean reward (None for no example), and
    `gain`, what the opening adds to the side's gain in mean reward over the first side, as share
    times mean less the first side's; a side's gains add up to its whole gain. Those of the largest
    share on any side, then one line (`opening` None) for all others. Empty when a side has no texts.
    """
    if not all(evaluation.texts for evaluation in sides.values()):
        return []
    earned = {side: _by_opening(evaluation) for side, evaluation in sides.items()}
    largest: Counter[str] = Counter()
    for by in earned.values():
        largest |= Counter({key: len(rewards) for key, rewards in by.items()})
    ordered = [key for key, _ in sorted(largest.items(), key=lambda item: (-item[1], item[0]))]
    lines: list[tuple[str | None, list[str]]] = [(key, [key]) for key in ordered[:shown]]
    if ordered[shown:]:
        lines.append((None, ordered[shown:]))
    examples = len(next(iter(sides.values())).rewards)
    found = []
    for name, keys in lines:
        of_line = {
            side: [r for key in keys for r in by.get(key, ())] for side, by in earned.items()
        }
        first = sum(next(iter(of_line.values())))
        line = {
            side: {
                "share": len(rewards) / examples,
                "mean": sum(rewards) / len(rewards) if rewards else None,
                "gain": (sum(rewards) - first) / examples,
            }
            for side, rewards in of_line.items()
        }
        found.append({"opening": name, **line})
    return found


def _by_opening(evaluation: Evaluation) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for text, reward in zip(evaluation.texts, evaluation.rewards, strict=True):
        found.setdefault(opening(text), []).append(reward)
    return found
