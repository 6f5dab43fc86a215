"""Rows of the reward table in columns: the Parquet schema, and evaluations to and from it.

In memory rows stay what Arrow read, buffers of numbers; an `Evaluation` with its tuples is made
for the row that is asked for. See docs/method.md, "Reward table".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corp_ray.errors import RewardTableError
from corp_ray.noise import NOISE_VERSION
from corp_ray.records import OUTCOMES, Candidate, Evaluation

FORMAT = b"corp_ray reward table 1"
HELD_OUT = ("gate", "test")
_FORMATS = "formats"  # empty for a task that judges none
_TEXTS = "texts"  # kept on held-out splits, else empty
_LATER = (_FORMATS, _TEXTS)  # columns that older parts lack
SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("candidate_id", pa.string()),
        ("kind", pa.string()),
        ("sigma", pa.float64()),
        ("step", pa.float64()),
        ("seeds", pa.list_(pa.uint64())),
        ("amplitudes", pa.list_(pa.float64())),
        ("direction_digest", pa.string()),
        ("center_digest", pa.string()),
        ("split", pa.string()),
        ("mean_reward", pa.float64()),
        ("rewards", pa.list_(pa.float64())),
        ("outcomes", pa.list_(pa.int8())),
        (_FORMATS, pa.list_(pa.float64())),
        (_TEXTS, pa.list_(pa.string())),
        ("generated_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("engine", pa.string()),
        ("split_digest", pa.string()),
        ("decoding_digest", pa.string()),
        ("task_version", pa.string()),
        ("noise_version", pa.int32()),
    ],
    metadata={b"format": FORMAT},
)
# The same in every row of a split; once checked they need no memory.
_CHECKED = ("split_digest", "decoding_digest", "task_version", "noise_version")
_PAIR = np.dtype([("seed", "<u8"), ("amplitude", "<f8")])

Key = tuple[str, str, str]  # center digest, split, direction digest


@dataclass(frozen=True)
class Identity:
    """What rewards depend on beside weights and direction; equal for every row that is compared."""

    split_digests: Mapping[str, str]
    decoding_digest: str
    task_version: str
    engine: str
    noise_version: int = NOISE_VERSION
    judge: str = ""  # the engine of gate and test rows where that is another

    def engine_on(self, split: str) -> str:
        return self.judge or self.engine if split in HELD_OUT else self.engine

    def of(self, split: str) -> dict[str, str | int | None]:
        """What the identity columns of a row on this split must hold."""
        return {
            "engine": self.engine_on(split),
            "split_digest": self.split_digests.get(split),
            "decoding_digest": self.decoding_digest,
            "task_version": self.task_version,
            "noise_version": self.noise_version,
        }


def key_of(evaluation: Evaluation) -> Key:
    return evaluation.center_digest, evaluation.split, evaluation.candidate.digest


def to_table(evaluations: Sequence[Evaluation], identity: Identity) -> pa.Table:
    """Evaluations as rows. Errors: RewardTableError when one is of another engine."""
    return pa.Table.from_pylist([_record(e, identity) for e in evaluations], schema=SCHEMA)


def _record(e: Evaluation, identity: Identity) -> dict:
    wanted = identity.engine_on(e.split)
    if e.engine != wanted:
        raise RewardTableError(f"engine: {e.engine!r}, this run has {wanted!r} on {e.split}")
    return {
        "round": e.candidate.round,
        "candidate_id": e.candidate.id,
        "kind": e.candidate.kind,
        "sigma": e.candidate.sigma,
        "step": e.candidate.step,
        "seeds": [seed for seed, _ in e.candidate.terms],
        "amplitudes": [amplitude for _, amplitude in e.candidate.terms],
        "direction_digest": e.candidate.digest,
        "center_digest": e.center_digest,
        "split": e.split,
        "mean_reward": e.mean,
        "rewards": list(e.rewards),
        "outcomes": [OUTCOMES.index(outcome) for outcome in e.outcomes],
        _FORMATS: list(e.formats),
        _TEXTS: list(e.texts),
        "generated_tokens": e.generated_tokens,
        "seconds": e.seconds,
        **identity.of(e.split),
    }


def check_identity(table: pa.Table, identity: Identity, part: str) -> None:
    """RewardTableError naming the part, the column and the first row of another identity."""
    splits = table["split"].to_pylist()
    wanted = {split: identity.of(split) for split in dict.fromkeys(splits)}
    for name in ("engine", *_CHECKED):
        expected = {split: columns[name] for split, columns in wanted.items()}
        for row, (split, found) in enumerate(zip(splits, table[name].to_pylist(), strict=True)):
            if found != expected[split]:
                raise RewardTableError(
                    f"{part}: {name} of {table['candidate_id'][row]} on {split} is {found!r}, "
                    f"this run has {expected[split]!r}; rows of different {name} never mix"
                )


def read_parquet(source: Path | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file's rows, read by the calling thread alone.

    Arrow's own threads, once started, can end a process in SIGABRT on its way out, all work done
    (apache/arrow issue 34314); pool and dataset reads start them.
    """
    with pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read(columns=columns, use_threads=False)


def read_rows(table: pa.Table) -> pa.Table:
    """The table in one piece, in the schema's types; ValueError when it holds anything else."""
    if (table.schema.metadata or {}).get(b"format") != FORMAT:
        raise ValueError("not a part of a reward table of this version")
    for name in _LATER:
        if name not in table.schema.names:
            none = pa.array([[]] * len(table), SCHEMA.field(name).type)
            table = table.add_column(SCHEMA.get_field_index(name), name, none)
    table = table.cast(SCHEMA).combine_chunks()
    empty = [name for name in SCHEMA.names if table[name].null_count]
    if empty:
        raise ValueError(f"no value in {', '.join(empty)}")
    return table


class Rows:
    """Rows of a reward table, in columns. Errors: ValueError naming a row that is not whole.

    `means` is float64 (N,).
    """

    def __init__(self, table: pa.Table):
        table = table.drop_columns(list(_CHECKED)).combine_chunks()
        self._strings = {
            name: _whole(table[name])
            for name in ("candidate_id", "kind", "center_digest", "split", "engine")
        }
        self._numbers = {
            name: _whole(table[name]).to_numpy()
            for name in ("round", "sigma", "step", "generated_tokens", "seconds")
        }
        self._seeds, self._term_at = _values(table["seeds"])
        self._amplitudes, amplitude_at = _values(table["amplitudes"])
        self._rewards, self._reward_at = _values(table["rewards"])
        self._outcomes, outcome_at = _values(table["outcomes"])
        self._formats, self._format_at = _values(table[_FORMATS])
        self._texts = _whole(table[_TEXTS])
        self.means = _whole(table["mean_reward"]).to_numpy()
        if not np.array_equal(self._term_at, amplitude_at):
            raise ValueError("seeds and amplitudes differ in number")
        self._check_rewards(outcome_at)
        self._check_digests(table["direction_digest"].to_pylist())

    def __len__(self) -> int:
        return len(self.means)

    def _name(self, row: int) -> str:
        return str(self._strings["candidate_id"][row])

    def _check_rewards(self, outcome_at: np.ndarray) -> None:
        lengths = np.diff(self._reward_at)
        wrong = np.flatnonzero((lengths < 1) | (lengths != np.diff(outcome_at)))
        if wrong.size:
            raise ValueError(f"rewards of {self._name(wrong[0])} are incomplete")
        judged = np.diff(self._format_at)
        wrong = np.flatnonzero((judged != 0) & (judged != lengths))
        if wrong.size:
            raise ValueError(f"formats of {self._name(wrong[0])} are incomplete")
        kept = self._texts.value_lengths().to_numpy()
        wrong = np.flatnonzero((kept != 0) & (kept != lengths))
        if wrong.size:
            raise ValueError(f"texts of {self._name(wrong[0])} are incomplete")
        codes = self._outcomes
        if codes.size and (codes.min() < 0 or codes.max() >= len(OUTCOMES)):
            raise ValueError(f"outcomes beyond 0..{len(OUTCOMES) - 1}")
        if len(self):
            sums = np.add.reduceat(self._rewards, self._reward_at[:-1])
            wrong = np.flatnonzero(~(np.abs(sums / lengths - self.means) <= 1e-9))
            if wrong.size:
                raise ValueError(
                    f"mean reward of {self._name(wrong[0])} is not that of its rewards"
                )

    def _check_digests(self, digests: list[str]) -> None:
        """Every row's direction must have its digest (see `records.direction_digest`)."""
        pairs = np.empty(len(self._seeds), _PAIR)
        pairs["seed"] = self._seeds
        pairs["amplitude"] = self._amplitudes * np.repeat(
            self._numbers["step"], np.diff(self._term_at)
        )
        packed = memoryview(pairs.tobytes())
        ends = (self._term_at * _PAIR.itemsize).tolist()
        for row, digest in enumerate(digests):
            piece = packed[ends[row] : ends[row + 1]]
            if hashlib.sha256(piece).hexdigest()[:32] != digest:
                raise ValueError(f"direction of {self._name(row)} does not match its digest")

    def evaluation(self, row: int) -> Evaluation:
        first, last = self._term_at[row], self._term_at[row + 1]
        start, stop = self._reward_at[row], self._reward_at[row + 1]
        seeds, amplitudes = self._seeds[first:last], self._amplitudes[first:last]
        texts = {name: str(column[row]) for name, column in self._strings.items()}
        numbers = {name: column[row].item() for name, column in self._numbers.items()}
        codes = self._outcomes[start:stop]  # as many as rewards, in every row
        return Evaluation(
            candidate=Candidate(
                texts["candidate_id"],
                texts["kind"],
                numbers["round"],
                tuple(zip(seeds.tolist(), amplitudes.tolist(), strict=True)),
                numbers["step"],
                numbers["sigma"],
            ),
            center_digest=texts["center_digest"],
            split=texts["split"],
            rewards=tuple(self._rewards[start:stop].tolist()),
            outcomes=tuple(OUTCOMES[code] for code in codes.tolist()),
            generated_tokens=numbers["generated_tokens"],
            seconds=numbers["seconds"],
            engine=texts["engine"],
            formats=tuple(self._formats[self._format_at[row] : self._format_at[row + 1]].tolist()),
            texts=tuple(self._texts[row].as_py()),
        )

    def copy_rewards(self, rows: np.ndarray, out_NE: np.ndarray, at: np.ndarray) -> None:
        """Rewards of `rows` into the rows `at` of `out_NE`; ValueError for another length."""
        starts = self._reward_at[rows]
        wrong = np.flatnonzero(self._reward_at[rows + 1] - starts != out_NE.shape[1])
        if wrong.size:
            raise ValueError(f"{self._name(rows[wrong[0]])} has not {out_NE.shape[1]} rewards")
        for place, start in zip(at.tolist(), starts.tolist(), strict=True):
            out_NE[place] = self._rewards[start : start + out_NE.shape[1]]


class FirstOnly:
    """Called with table after table: the rows whose key has not come before."""

    def __init__(self) -> None:
        self._seen: set[Key] = set()

    def __call__(self, table: pa.Table) -> pa.Table:
        wanted = []
        for key in keys_of(table):
            wanted.append(key not in self._seen)
            self._seen.add(key)
        return table if all(wanted) else table.filter(pa.array(wanted, pa.bool_()))


def keys_of(table: pa.Table) -> list[Key]:
    """The key of every row; equal centers and splits share one string."""
    shared: dict[str, str] = {}
    centers, splits = (
        [shared.setdefault(text, text) for text in table[name].to_pylist()]
        for name in ("center_digest", "split")
    )
    return list(zip(centers, splits, table["direction_digest"].to_pylist(), strict=True))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _values(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as one array, and where in it each row begins, and the last one ends."""
    lists = _whole(column)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.flatten().to_numpy(), offsets - offsets[0]
