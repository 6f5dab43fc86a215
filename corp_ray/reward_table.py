"""The reward table: append-only Parquet parts that say what is scored and with what result.

A row is one candidate on one split around one center. Rows are on disk before they count, each
part whole or absent; resuming is asking the table what is missing. Rows of another identity are
refused, broken or foreign parts set aside. Several processes may fill one table. See
docs/method.md, "Reward table".
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute

from corp_ray.records import VERIFIER_ERROR, Candidate, Evaluation
from corp_ray.reward_parts import PART_BYTES, RewardParts
from corp_ray.reward_rows import (
    FirstOnly,
    Identity,
    Key,
    Rows,
    check_identity,
    key_of,
    keys_of,
    to_table,
)
from corp_ray.storage import Storage

log = logging.getLogger(__name__)

COMPACT_FROM = 64  # small parts from which opening a table merges them
COLUMN_ROWS = 256  # rows that are kept in columns together; fewer stay evaluations


class RewardTable:
    """The rows of one run's `rewards/` folder, kept in memory in columns and extended on disk.

    `owner` is whoever holds the run, one process at a time: it sets broken parts aside and merges
    what other writers left. Any number of others may append beside it and `refresh`.

    Errors: RewardTableError naming what differs when a row has another identity; DiskFullError
    when a part cannot be written (no row is lost or half written).
    """

    def __init__(self, folder: Storage, identity: Identity, *, owner: bool = True):
        self._identity, self._owner = identity, owner
        self._index: dict[tuple[str, str], dict[str, int]] = {}
        self._columns: list[Rows] = []
        self._starts: list[int] = []  # number of the first row of each of them
        self._recent: list[Evaluation] = []  # the rows after those
        folder.make()
        self._folder, self._parts = folder, RewardParts(folder)
        if owner:
            self._parts.remove_leftovers()
        self._open_parts()

    def _open_parts(self) -> None:
        """Read every part; as owner, rewrite those with rows of others, and many small ones."""
        starts: list[int] = []
        names: list[str] = []
        small: set[str] = set()
        doubled: set[str] = set()
        for part, table in self._parts.new(self._spoilt):
            rows = self._checked(self._folder, part.name, table)
            if rows is None:
                continue
            if part.size_bytes < PART_BYTES // 2:
                small.add(part.name)
            keys = keys_of(table)
            present = [number for number in map(self._find, keys) if number is not None]
            if present or len(set(keys)) < len(keys):
                doubled |= {names[bisect_right(starts, number) - 1] for number in present}
                doubled.add(part.name)
            starts.append(len(self))
            names.append(part.name)
            self._take(table, rows)
        rewritten = doubled | (small if len(small) >= COMPACT_FROM else set())
        if self._owner and rewritten:
            self._parts.rewrite(sorted(rewritten), FirstOnly())

    def __len__(self) -> int:
        return self._columns_end + len(self._recent)

    def evaluations(self) -> list[Evaluation]:
        """Every row, in the order in which they came. Large: for tests and small tables."""
        return [self._evaluation(number) for number in range(len(self))]

    def get(self, center_digest: str, split: str, candidate: Candidate) -> Evaluation | None:
        number = self._find((center_digest, split, candidate.digest))
        return None if number is None else self._evaluation(number)

    def missing(
        self, center_digest: str, split: str, candidates: Iterable[Candidate]
    ) -> list[Candidate]:
        """The candidates without a row, each direction once, in order."""
        present = self._index.get((center_digest, split), {})
        absent: dict[str, Candidate] = {}
        for candidate in candidates:
            digest = candidate.digest
            if digest not in present:
                absent.setdefault(digest, candidate)
        return list(absent.values())

    def means(self, center_digest: str, split: str, candidates: Sequence[Candidate]) -> np.ndarray:
        """(N,) mean rewards. Errors: KeyError naming the first candidate without a row."""
        numbers = self._numbers(center_digest, split, candidates)
        found_N = np.empty(len(numbers))
        for at, rows, own in self._in_columns(numbers):
            found_N[at] = rows.means[own]
        for place in np.flatnonzero(numbers >= self._columns_end).tolist():
            found_N[place] = self._evaluation(int(numbers[place])).mean
        return found_N

    def rewards(
        self, center_digest: str, split: str, candidates: Sequence[Candidate]
    ) -> np.ndarray:
        """(N, E) rewards per example. Errors: KeyError naming the first candidate without a row."""
        numbers = self._numbers(center_digest, split, candidates)
        if not len(numbers):
            return np.empty((0, 0))
        examples = len(self._evaluation(int(numbers[0])).rewards)
        found_NE = np.empty((len(numbers), examples))
        for at, rows, own in self._in_columns(numbers):
            rows.copy_rewards(own, found_NE, at)
        for place in np.flatnonzero(numbers >= self._columns_end).tolist():
            found_NE[place] = self._evaluation(int(numbers[place])).rewards
        return found_NE

    def append(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """Write the new rows as one part; returns those that were not in the table before."""
        new = {key: e for e in evaluations if self._find(key := key_of(e)) is None}
        if new:
            self._parts.write(to_table(list(new.values()), self._identity))
            for key, evaluation in new.items():
                self._add(key, evaluation)
            self._parts.compact()
        return list(new.values())

    def refresh(self) -> int:
        """Take in what other writers have added since; how many rows. One listing when nothing."""
        before = len(self)
        if self._parts.has_new():
            for part, table in self._parts.new(self._spoilt):
                rows = self._checked(self._folder, part.name, table)
                if rows is not None:
                    self._take(table, rows)
        return len(self) - before

    def read_from(self, other: Storage) -> int:
        """Copy the support rows of another run's `rewards/` folder; how many were not here yet.

        They are written to this table, so the other may go; the other folder is only read.
        Errors: RewardTableError when a support row has another identity.
        """
        before = len(self)
        for part, whole in RewardParts(other).new(lambda *what: _skipped(other, *what)):
            table = whole.filter(pa.compute.equal(whole["split"], "support")).combine_chunks()
            rows = self._checked(other, part.name, table)
            if rows is None:
                continue
            table = self._absent(table)
            if table.num_rows:
                self._parts.write(table)
                self._take(table, Rows(table))
        self._parts.compact()
        return len(self) - before

    def _find(self, key: Key) -> int | None:
        center_digest, split, digest = key
        return self._index.get((center_digest, split), {}).get(digest)

    @property
    def _columns_end(self) -> int:
        """The number of rows in columns."""
        return self._starts[-1] + len(self._columns[-1]) if self._starts else 0

    def _evaluation(self, number: int) -> Evaluation:
        if number >= self._columns_end:
            return self._recent[number - self._columns_end]
        at = bisect_right(self._starts, number) - 1
        return self._columns[at].evaluation(number - self._starts[at])

    def _numbers(
        self, center_digest: str, split: str, candidates: Sequence[Candidate]
    ) -> np.ndarray:
        present = self._index.get((center_digest, split), {})
        numbers = np.empty(len(candidates), np.int64)
        for at, candidate in enumerate(candidates):
            number = present.get(candidate.digest)
            if number is None:
                raise KeyError(f"{candidate.id} has no row on {split}")
            numbers[at] = number
        return numbers

    def _in_columns(self, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, Rows, np.ndarray]]:
        """Where in `numbers` rows of one block of columns stand, the block, and which rows of it."""
        place = np.searchsorted(self._starts, numbers, "right") - 1
        place[numbers >= self._columns_end] = -1
        for at_block in np.unique(place[place >= 0]).tolist():
            at = np.flatnonzero(place == at_block)
            yield at, self._columns[at_block], numbers[at] - self._starts[at_block]

    def _add(self, key: Key, evaluation: Evaluation) -> None:
        self._index.setdefault(key[:2], {})[key[2]] = len(self)
        self._recent.append(evaluation)
        if len(self._recent) >= COLUMN_ROWS:
            self._to_columns()

    def _to_columns(self) -> None:
        """Recent rows become a block of columns; their numbers stay."""
        if self._recent:
            start, rows = self._columns_end, Rows(to_table(self._recent, self._identity))
            self._starts.append(start)
            self._columns.append(rows)
            self._recent = []

    def _take(self, table: pa.Table, rows: Rows) -> None:
        """Add the rows that are not there yet; `rows` is the table in columns."""
        absent = self._absent(table)
        if absent.num_rows < table.num_rows:
            rows = Rows(absent)
        keys = keys_of(absent)
        if len(keys) < COLUMN_ROWS:
            for at, key in enumerate(keys):
                self._add(key, rows.evaluation(at))
            return
        self._to_columns()
        start = len(self)
        for at, key in enumerate(keys):
            self._index.setdefault(key[:2], {})[key[2]] = start + at
        self._starts.append(start)
        self._columns.append(rows)

    def _absent(self, table: pa.Table) -> pa.Table:
        """The rows whose keys are not here yet, each key once."""
        wanted: dict[Key, int] = {}
        for at, key in enumerate(keys_of(table)):
            if self._find(key) is None:
                wanted.setdefault(key, at)
        if len(wanted) == table.num_rows:
            return table
        return table.take(pa.array(list(wanted.values()), pa.int64())).combine_chunks()

    def _checked(self, folder: Storage, name: str, table: pa.Table) -> Rows | None:
        """The part in columns; None when it was set aside. Errors: RewardTableError."""
        try:
            rows = Rows(table)
        except ValueError as error:
            if folder is self._folder:
                self._spoilt(name, str(error))
            else:
                _skipped(folder, name, str(error))
            return None
        check_identity(table, self._identity, str(folder / name))
        return rows

    def _spoilt(self, name: str, reason: str) -> None:
        if not self._owner:
            _skipped(self._folder, name, reason)
            return
        log.warning(
            "%s cannot be used (%s): moved to %s/, its candidates are scored again",
            self._folder / name,
            reason,
            self._parts.set_aside(name),
        )


def _skipped(folder: Storage, name: str, reason: str) -> None:
    log.warning("%s cannot be used (%s): left out", folder / name, reason)


def error_share(evaluation: Evaluation) -> float:
    """The share of gradings in which the verifier itself failed."""
    return evaluation.outcomes.count(VERIFIER_ERROR) / len(evaluation.outcomes)
