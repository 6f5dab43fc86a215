"""The reward table's files: parts that are written once, merged in tiers, and never changed.

Every process writes parts of its own name and, while it runs, merges only those. So many may write
to one folder, and nothing needs a lock: a file is removed only by who has put each of its rows into
another file of its own before. A crash in between leaves rows twice, never none. See
docs/method.md, "Reward table".
"""

from __future__ import annotations

import io
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from corp_ray.errors import RewardTableError, StorageError
from corp_ray.reward_rows import read_parquet, read_rows
from corp_ray.storage import Storage

log = logging.getLogger(__name__)

FAN = 16  # own parts of one tier that are merged into one of the next
PART_BYTES = 64 << 20  # of Arrow data: larger parts are not merged any more
LEFTOVER_S = 3600.0  # a temporary file so old belongs to nobody alive
_LISTINGS = 100


@dataclass(frozen=True)
class Part:
    name: str
    size_bytes: int  # of its Arrow data


class Vanished(Exception):
    """A part that was listed is gone: its writer has merged it."""


class RewardParts:
    """The parts in one folder, as one of its writers or readers sees them.

    Errors: RewardTableError for a part that may not be read; DiskFullError, RewardTableError or
    StorageError when nothing can be written.
    """

    def __init__(self, folder: Storage):
        self._folder = folder
        self._writer, self._written = uuid.uuid4().hex, 0
        self._known: set[str] = set()
        self._tiers: list[list[Part]] = []

    def __str__(self) -> str:
        return str(self._folder)

    def new(self, spoilt: Callable[[str, str], None]) -> Iterator[tuple[Part, pa.Table]]:
        """Parts not seen before, by two listings or more: until all that a listing showed was there.

        One listing is not enough: taken while a writer merges, it may show neither its old parts
        nor the new one. `spoilt` is called with the name of a part that cannot be used, and why.
        """
        for listing in range(_LISTINGS):
            vanished = False
            for name in [name for name in self.names() if name not in self._known]:
                try:
                    table = self.read(name)
                except Vanished:
                    vanished = True
                    continue
                except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
                    self._known.add(name)
                    spoilt(name, " ".join(str(error).split())[:200])
                    continue
                self._known.add(name)
                yield Part(name, table.nbytes), table
            if listing and not vanished:
                return
        raise RewardTableError(f"{self}: its parts change faster than they can be read")

    def has_new(self) -> bool:
        return not self._known.issuperset(self.names())

    def names(self) -> list[str]:
        return self._folder.names("*.parquet")

    def read(self, name: str) -> pa.Table:
        """A part's rows. Errors: Vanished; pa.ArrowException or ValueError when it is spoilt."""
        try:
            content = self._folder.read_bytes(name)
        except FileNotFoundError as error:
            raise Vanished(name) from error
        except StorageError as error:
            if self._folder.exists(name):
                raise
            raise Vanished(name) from error
        except OSError as error:
            raise RewardTableError(
                f"{self._folder / name}: cannot be read ({error.strerror or error})"
            ) from error
        return read_rows(read_parquet(pa.BufferReader(content)))

    def write(self, table: pa.Table) -> None:
        """One more part of this writer, in the tier of so many rows."""
        tier, rows = 0, table.num_rows
        while rows >= FAN:
            tier, rows = tier + 1, rows // FAN
        self._put(table, tier)

    def _put(self, table: pa.Table, tier: int) -> None:
        stream = io.BytesIO()
        pq.write_table(table, stream, compression="zstd")
        name = f"part-{self._writer}-{self._written}.parquet"
        self._known.add(name)
        self._written += 1
        self._folder.write_bytes(name, stream.getvalue())
        while len(self._tiers) <= tier:
            self._tiers.append([])
        self._tiers[tier].append(Part(name, table.nbytes))

    def compact(self) -> None:
        """Merge full tiers of own parts: a row is rewritten once for every factor FAN of rows."""
        tier = 0
        while tier < len(self._tiers):
            parts = self._tiers[tier]
            if len(parts) >= FAN:
                self._tiers[tier] = []
                if sum(part.size_bytes for part in parts) <= PART_BYTES:  # else they stay
                    self._merge(parts, tier + 1)
            tier += 1

    def _merge(self, parts: Sequence[Part], tier: int) -> None:
        tables = []
        for part in parts:
            try:
                tables.append(self.read(part.name))
            except Vanished:  # whoever holds the run has taken it over
                continue
            except (pa.ArrowException, ValueError) as error:
                raise RewardTableError(
                    f"{self._folder / part.name}: written whole and now broken ({error})"
                ) from error
        if tables:
            self._put(pa.concat_tables(tables).combine_chunks(), tier)
        self._remove([part.name for part in parts])

    def rewrite(self, names: Collection[str], only_first: Callable[[pa.Table], pa.Table]) -> None:
        """Put the rows of parts of any writer into parts of this one, then remove those.

        `only_first` leaves out the rows it was given before. For whoever holds the run, alone.
        """
        waiting: list[pa.Table] = []
        removed = []
        for name in names:
            try:
                table = only_first(self.read(name))
            except Vanished:
                continue
            removed.append(name)
            if waiting and sum(t.nbytes for t in waiting) + table.nbytes > PART_BYTES:
                self._put_whole(waiting)
                waiting = []
            waiting.append(table)
        self._put_whole(waiting)
        self._remove(removed)

    def _put_whole(self, tables: list[pa.Table]) -> None:
        merged = pa.concat_tables(tables).combine_chunks() if tables else None
        if merged is not None and merged.num_rows:
            self.write(merged)

    def _remove(self, names: Collection[str]) -> None:
        for name in names:
            try:
                self._folder.remove(name)
            except StorageError:  # removed by somebody else in this moment?
                if self._folder.exists(name):
                    raise

    def set_aside(self, name: str) -> str:
        """Move a part out of the table; returns the name of the folder where it now is."""
        aside = "set_aside"
        (self._folder / aside).make()
        self._folder.rename(name, f"{aside}/{name}")
        return aside

    def remove_leftovers(self) -> None:
        """Remove temporary files that a killed writer left on a local disk, once they are old."""
        if self._folder.local is None:
            return
        for path in self._folder.local.glob(".*.tmp"):
            try:
                old = time.time() - path.stat().st_mtime > LEFTOVER_S
            except FileNotFoundError:
                continue
            if old:
                path.unlink(missing_ok=True)
