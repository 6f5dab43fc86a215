"""What a consolidated model is compared with, on one population: the vote of its best members, the
plain mean of its elite, one step of evolution strategies.

Pure numpy, no state. Sources: RandOpt (https://github.com/sunrainyg/RandOpt) for best single and
majority vote, Salimans et al. 2017 (arXiv 1703.03864) for evolution strategies with standardized
rewards. See docs/method.md, "Comparison".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corp_ray.consolidate import standardize
from corp_ray.direction import Direction


def ranking(means: Sequence[float] | np.ndarray) -> list[int]:
    """Indices of a population from the best mean reward to the worst, ties to the lower index."""
    return np.argsort(-np.asarray(means, np.float64), kind="stable").tolist()


@dataclass(frozen=True)
class Vote:
    """Result of `majority_vote`: rewards (E,), and what was counted.

    `answers` are the winning ones, None where nobody gave any; `ties` items on which several
    answers had the most votes, `invalid` answers that did not vote (of K x E), `unanswered` items
    without a vote, `split_rewards` items on which voters of the winning answer had other rewards.
    """

    rewards: tuple[float, ...]
    answers: tuple[str | None, ...]
    ties: int
    invalid: int
    unanswered: int
    split_rewards: int


def majority_vote(
    answers: Sequence[Sequence[str | None]],
    rewards: Sequence[Sequence[float]],
    graded: Sequence[Sequence[bool]],
) -> Vote:
    """The vote of K voters, the best first, on each of E items: all arguments are (K, E).

    An answer that is None does not vote. The most votes win, ties the answer whose best voter ranks
    highest. The item's reward is that of the winning answer's best voter whose answer could be
    graded; 0 where none could, or nobody answered. Errors: ValueError for no voters, or shapes
    that differ.
    """
    shapes = {tuple(map(len, table)) for table in (answers, rewards, graded)}
    if len(shapes) != 1 or len(set(shapes.pop())) != 1:
        raise ValueError("a vote needs voters with an answer, a reward and a mark for every item")
    by_item = (zip(*table, strict=True) for table in (answers, rewards, graded))
    found = [_decided(*item) for item in zip(*by_item, strict=True)]
    return Vote(
        rewards=tuple(item.reward for item in found),
        answers=tuple(item.answer for item in found),
        ties=sum(item.tie for item in found),
        invalid=sum(answer is None for own in answers for answer in own),
        unanswered=sum(item.answer is None for item in found),
        split_rewards=sum(item.split for item in found),
    )


@dataclass(frozen=True)
class _Item:
    answer: str | None = None
    reward: float = 0.0
    tie: bool = False
    split: bool = False


def _decided(
    answers: Sequence[str | None], rewards: Sequence[float], graded: Sequence[bool]
) -> _Item:
    votes: dict[str, int] = {}  # in the order of each answer's best voter
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    if not votes:
        return _Item()
    most = max(votes.values())
    leading = [answer for answer, count in votes.items() if count == most]
    own = [
        float(reward)
        for answer, reward, known in zip(answers, rewards, graded, strict=True)
        if answer == leading[0] and known
    ]
    return _Item(leading[0], own[0] if own else 0.0, len(leading) > 1, len(set(own)) > 1)


def elite_average(
    directions: Sequence[Direction], rewards: Sequence[float] | np.ndarray, quantile: float
) -> Direction:
    """The plain mean of the elite, those with a reward of at least the quantile (linear)."""
    rewards_N = np.asarray(rewards, np.float64)
    elite = np.flatnonzero(rewards_N >= np.quantile(rewards_N, quantile)).tolist()
    return _combined([directions[i] for i in elite], [1 / len(elite)] * len(elite))


def evolution_direction(
    directions: Sequence[Direction], rewards: Sequence[float] | np.ndarray, norm: float
) -> Direction:
    """(1/N) sum z_i x_i over the whole population, scaled to a norm; z the rewards less their mean
    over their population standard deviation. Empty when all rewards are equal.

    The norm is the caller's, so that the same steps reach as far as those of other directions.
    """
    rewards_N = np.asarray(rewards, np.float64)
    z_N = standardize(rewards_N, float(np.max(np.abs(rewards_N))))
    if not np.any(z_N):
        return Direction()
    direction = _combined(directions, (z_N / len(z_N)).tolist())
    return direction.scale(norm / direction.norm) if direction.norm > 0 else direction


def _combined(directions: Sequence[Direction], weights: Sequence[float]) -> Direction:
    return Direction(
        (seed, weight * amplitude)
        for direction, weight in zip(directions, weights, strict=True)
        if weight
        for seed, amplitude in direction.terms
    )
