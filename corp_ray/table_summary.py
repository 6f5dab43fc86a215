"""What a reward table holds, counted from a few of its columns: cheap, and while others write it.

The rewards per example, most of a table's bytes, are not read.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from corp_ray.reward_rows import SCHEMA, Key, read_parquet
from corp_ray.storage import Storage

_KEY = ("center_digest", "split", "direction_digest")
_VALUES = ("round", "mean_reward", "seconds")
_SCHEMA = pa.schema([SCHEMA.field(name) for name in (*_KEY, *_VALUES)])
_TRIES = 3
_AT_ONCE = 16  # requests, where parts lie on a server


@dataclass
class TableSummary:
    """Rows by (round, split), and by split the best mean reward and seconds of an evaluation."""

    rows: dict[tuple[int, str], int] = field(default_factory=dict)
    best_reward: dict[str, float] = field(default_factory=dict)
    seconds_each: dict[str, float] = field(default_factory=dict)

    def by_split(self) -> dict[str, int]:
        counts: dict[str, int] = defaultdict(int)
        for (_, split), count in self.rows.items():
            counts[split] += count
        return dict(counts)


def summarise(folder: Storage) -> TableSummary:
    """Count the rows in a run's rewards/; parts that cannot be read count for nothing."""
    table = _read(folder)
    if table is None:
        return TableSummary()
    rows = table.group_by(_KEY, use_threads=False).aggregate([(name, "min") for name in _VALUES])
    summary = TableSummary()
    for entry in (
        rows.group_by(["round_min", "split"], use_threads=False)
        .aggregate([([], "count_all")])
        .to_pylist()
    ):
        summary.rows[entry["round_min"], entry["split"]] = entry["count_all"]
    for entry in (
        rows.group_by("split", use_threads=False)
        .aggregate([("mean_reward_min", "max"), ("seconds_min", "mean")])
        .to_pylist()
    ):
        summary.best_reward[entry["split"]] = entry["mean_reward_min_max"]
        summary.seconds_each[entry["split"]] = entry["seconds_min_mean"]
    return summary


def stored(folder: Storage) -> set[Key]:
    """The keys of all rows, whatever their identity."""
    table = _read(folder)
    return set(zip(*(table[name].to_pylist() for name in _KEY), strict=True)) if table else set()


def _read(folder: Storage) -> pa.Table | None:
    """The columns of all parts; listed again when a part has gone into a larger one meanwhile."""
    tables: list[pa.Table] = []
    for _ in range(_TRIES):
        names = folder.names("*.parquet")
        with ThreadPoolExecutor(_AT_ONCE) as readers:
            parts = list(readers.map(lambda name: _part(folder, name), names))
        tables = [part for part in parts if part is not None]
        if len(tables) == len(names) or set(names) <= set(folder.names("*.parquet")):
            break
    return pa.concat_tables(tables) if tables else None


def _part(folder: Storage, name: str) -> pa.Table | None:
    try:
        local = folder.local and folder.local / name
        source = local or pa.BufferReader(folder.read_bytes(name))
        return read_parquet(source, _SCHEMA.names).select(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None
