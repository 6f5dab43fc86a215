"""Records of a comparison as report/compare.json and the table for people hold them.

See docs/method.md, "Comparison", for what every field means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from corp_ray.baselines import Vote
from corp_ray.gate import paired_interval
from corp_ray.records import Evaluation, Proposal

FORMAT = "corp_ray compare 1"


@dataclass(frozen=True)
class Gain:
    """Mean difference on the same items with its 95 % paired interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What was scored to find a model: candidates, their answers, tokens, the engines' seconds."""

    candidates: int = 0
    answers: int = 0
    generated_tokens: int = 0
    engine_s: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """The proposal that a method took, None for what it has no choice of; `direction` is its digest
    in the reward table, where equal directions have one row."""

    id: str
    direction: str
    quantile: float | None
    inverse_temperature: float | None
    step: float
    validation: float


@dataclass(frozen=True)
class VoteCounts:
    """Items with a tie, answers that did not vote (of voters x items), items without a vote."""

    ties: int
    invalid_answers: int
    no_answer: int


@dataclass(frozen=True)
class Row:
    """One method on the test split; gains are over the base."""

    name: str
    label: str
    mean: float
    gain: float
    low: float
    high: float
    gain_over_best_single: Gain
    fixes: int
    regressions: int
    forward_passes: int
    generated_tokens_per_item: float
    search: Cost
    chosen: Chosen | None
    vote: VoteCounts | None
    abstained: bool
    note: str


@dataclass(frozen=True)
class Comparison:
    """Every method of one run on the same test items; `population` is the run's own."""

    run: str
    task: str
    model: str
    seed: int
    split_digest: str
    examples: int
    population: int
    ensemble_population: int
    votes: int
    rows: tuple[Row, ...]
    split: str = "test"
    format: str = FORMAT


@dataclass(frozen=True)
class Method:
    """One method before it is compared: its rewards (E,) on the test split and where it came from.

    `generated_tokens` are those of all its answers to the test split.
    """

    name: str
    label: str
    rewards: Sequence[float]
    generated_tokens: int
    search: Cost = field(default_factory=Cost)
    forward_passes: int = 1
    chosen: Chosen | None = None
    vote: VoteCounts | None = None
    abstained: bool = False
    note: str = ""


def chosen_of(proposal: Proposal) -> Chosen:
    """A proposal as it is reported; NaN stands for a choice that its method does not have."""
    return Chosen(
        proposal.candidate.id,
        proposal.candidate.digest,
        _or_none(proposal.quantile),
        _or_none(proposal.inverse_temperature),
        proposal.step,
        proposal.validation_mean,
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def vote_of(
    name: str, label: str, vote: Vote, voters: Sequence[Evaluation], search: Cost, note: str
) -> Method:
    """The method that asks every voter for every item."""
    if vote.split_rewards:
        more = f"on {vote.split_rewards} items equal answers had different rewards"
        note = f"{note}; {more}" if note else more
    return Method(
        name,
        label,
        vote.rewards,
        sum(row.generated_tokens for row in voters),
        search,
        forward_passes=len(voters),
        vote=VoteCounts(vote.ties, vote.invalid, vote.unanswered),
        note=note,
    )


def compared(methods: Sequence[Method]) -> tuple[Row, ...]:
    """Each method beside those named "base" and "best_single", on the same items."""
    rewards = {method.name: method.rewards for method in methods}
    return tuple(_row(method, rewards["base"], rewards["best_single"]) for method in methods)


def _row(method: Method, base: Sequence[float], best_single: Sequence[float]) -> Row:
    own = method.rewards
    gain, low, high = paired_interval(base, own)
    deltas = np.subtract(own, base)
    return Row(
        name=method.name,
        label=method.label,
        mean=float(np.mean(own)),
        gain=gain,
        low=low,
        high=high,
        gain_over_best_single=Gain(*paired_interval(best_single, own)),
        fixes=int(np.count_nonzero(deltas > 0)),
        regressions=int(np.count_nonzero(deltas < 0)),
        forward_passes=method.forward_passes,
        generated_tokens_per_item=method.generated_tokens / len(own),
        search=method.search,
        chosen=method.chosen,
        vote=method.vote,
        abstained=method.abstained,
        note=method.note,
    )
