"""What it took to find a model: the rows of the reward table that its search asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable

from corp_ray.compared import Cost
from corp_ray.reward_rows import Key
from corp_ray.scoring import Asked, Scoring


class SearchCosts:
    """Counts rows of one reward table; each is read once, however many searches asked for it."""

    def __init__(self, scoring: Scoring):
        self._scoring = scoring
        self._known: dict[Key, tuple[int, int, float]] = {}  # answers, tokens, seconds

    def of(self, asked: Iterable[Asked]) -> Cost:
        """What these rows took, each counted once; a center itself is no candidate."""
        rows = {
            (center.digest, split, candidate.digest): (center, split, candidate)
            for center, split, candidate in asked
        }
        for key in rows.keys() - self._known.keys():
            row = self._scoring.evaluation(*rows[key])
            self._known[key] = len(row.rewards), row.generated_tokens, row.seconds
        taken = [self._known[key] for key in rows]
        candidates = {(key[0], key[2]) for key, (_, _, c) in rows.items() if c.terms}
        return Cost(
            candidates=len(candidates),
            answers=sum(answers for answers, _, _ in taken),
            generated_tokens=sum(tokens for _, tokens, _ in taken),
            engine_s=math.fsum(seconds for _, _, seconds in taken),
        )
