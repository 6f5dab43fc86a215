"""Proposals: every (quantile, inverse temperature, step) of the grid, and which of them is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corp_ray.consolidate import Consolidation
from corp_ray.direction import Direction
from corp_ray.records import Candidate, Proposal, Verdict

GridPoint = tuple[float, float]  # (quantile, inverse temperature)


def make_proposals(
    consolidations: Mapping[GridPoint, Consolidation], steps: Sequence[float], round_number: int
) -> list[Proposal]:
    """One proposal per grid point and step; those of a grid point share their terms.

    A consolidation of norm 0 moves nothing and makes no proposal.
    """
    return [
        proposal
        for (quantile, beta), consolidation in consolidations.items()
        for proposal in along(
            consolidation.mean,
            steps,
            f"r{round_number}q{quantile:g}b{beta:g}s{{:g}}",
            round_number,
            quantile,
            beta,
        )
    ]


def along(
    direction: Direction,
    steps: Sequence[float],
    name: str,
    round_number: int,
    quantile: float = math.nan,
    inverse_temperature: float = math.nan,
) -> list[Proposal]:
    """One direction at every step, none when its norm is 0; `name` has a place for the step.

    NaN stands for what the direction was not made with.
    """
    terms = direction.terms if direction.norm > 0 else ()
    return [
        Proposal(
            quantile,
            inverse_temperature,
            step,
            Candidate(name.format(step), "proposal", round_number, terms, step),
        )
        for step in (steps if terms else ())
    ]


def sweep_groups(candidates: Sequence[Candidate], engines: int) -> list[tuple[Candidate, ...]]:
    """Candidates grouped by the direction they share, large groups cut so that no engine idles.

    An engine builds a group's direction once and sweeps its steps.
    """
    groups: dict[tuple, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.terms, []).append(candidate)
    pieces = max(1, -(-2 * engines // max(len(groups), 1)))
    cut = []
    for group in groups.values():
        length = -(-len(group) // pieces)
        cut += [tuple(group[low : low + length]) for low in range(0, len(group), length)]
    return cut


def best_proposal(proposals: Sequence[Proposal]) -> Proposal | None:
    """The proposal of the highest validation mean, ties to the smaller step, then grid order."""
    return min(proposals, key=lambda p: (-p.validation_mean, p.step), default=None)


@dataclass(frozen=True)
class Decision:
    """What a round's proposals came to: the best one, and why it was or was not committed.

    `verdict` is None when the best one was not taken to the gate.
    """

    best: Proposal | None
    reason: str
    verdict: Verdict | None = None

    @property
    def accepted(self) -> bool:
        return self.verdict is not None and self.verdict.accepted
