"""Candidates that took their engines down too often: noted with the reason, not tried again.

`set_aside.jsonl` in the run directory, one line each. Deleting it gives them another chance.
"""

from __future__ import annotations

import json
from collections import Counter

from corp_ray.records import Candidate, Center, Failure, Work
from corp_ray.run_directory import RunDirectory

FILE = "set_aside.jsonl"


class SetAside:
    """What is set aside in one run directory, those of earlier drivers included."""

    def __init__(self, directory: RunDirectory):
        self._directory = directory
        self._keys: set[tuple[str, str, str]] = set()
        self._counts: Counter[tuple[str, str]] = Counter()
        for line in directory.read_lines(FILE):
            try:
                noted = json.loads(line)
                self._keep(noted["center_digest"], noted["split"], noted["direction_digest"])
            except (ValueError, KeyError):  # a last line that was cut short
                continue

    def _keep(self, center: str, split: str, direction: str) -> None:
        if (center, split, direction) not in self._keys:
            self._keys.add((center, split, direction))
            self._counts[center, split] += 1

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, center: Center, split: str, candidate: Candidate) -> bool:
        return bool(self._keys) and (center.digest, split, candidate.digest) in self._keys

    def count(self, center: Center, split: str) -> int:
        return self._counts[center.digest, split]

    def add(self, work: Work, failure: Failure) -> None:
        for candidate in work.candidates:
            self._keep(work.center.digest, work.split, candidate.digest)
            self._directory.append_line(
                FILE,
                {
                    "round": candidate.round,
                    "candidate": candidate.id,
                    "split": work.split,
                    "reason": failure.reason,
                    "attempts": failure.attempts,
                    "center_digest": work.center.digest,
                    "direction_digest": candidate.digest,
                },
            )
