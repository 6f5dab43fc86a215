"""Candidates that took their engines down too often: noted with the reason, not tried again.

`set_aside.jsonl` in the run directory (a shard has its own), one line each. Deleting it gives them
another chance.
"""

from __future__ import annotations

from corp_ray.records import Candidate, Center, Failure
from corp_ray.reward_rows import Key
from corp_ray.run_directory import SET_ASIDE, RunDirectory, lines
from corp_ray.storage import Storage


def noted(run: Storage) -> set[Key]:
    """What is set aside in a run's directory, by the reward table's keys."""
    found = lines(run, SET_ASIDE)
    return {(one["center_digest"], one["split"], one["direction_digest"]) for one in found}


class SetAside:
    """What is set aside in one run directory, those of earlier drivers included."""

    def __init__(self, directory: RunDirectory):
        self._directory = directory
        self._keys = noted(directory.root)

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, center: Center, split: str, candidate: Candidate) -> bool:
        return bool(self._keys) and (center.digest, split, candidate.digest) in self._keys

    def add(self, center: Center, split: str, candidate: Candidate, failure: Failure) -> None:
        self._keys.add((center.digest, split, candidate.digest))
        self._directory.append_line(
            SET_ASIDE,
            {
                "round": candidate.round,
                "candidate": candidate.id,
                "split": split,
                "reason": failure.reason,
                "attempts": failure.attempts,
                "center_digest": center.digest,
                "direction_digest": candidate.digest,
            },
        )
