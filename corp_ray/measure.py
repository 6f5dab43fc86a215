"""The test table: models on the split that nothing else reads, beside the base on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corp_ray.gate import paired_interval
from corp_ray.records import Candidate, Center
from corp_ray.scoring import Scoring


@dataclass(frozen=True)
class Measured:
    """One model's mean reward on the test split, and its gain over the base on the same items.

    `low` and `high` bound the gain with 95 % confidence (paired, normal).
    """

    name: str
    mean: float
    gain: float
    low: float
    high: float
    examples: int


def test_table(
    scoring: Scoring, work: Sequence[tuple[Center, Candidate]], names: Sequence[str]
) -> tuple[Measured, ...]:
    """Each (center, candidate) on the test split, the first being the base of the gains."""
    rows = scoring.judged("test", work, "test")
    return tuple(
        Measured(name, row.mean, *paired_interval(rows[0].rewards, row.rewards), len(row.rewards))
        for name, row in zip(names, rows, strict=False)
    )
