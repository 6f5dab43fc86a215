"""The reward table: append-only Parquet parts that say what is scored and with what result.

A row is one candidate on one split around one center. Rows are on disk before they count, each
part whole or absent; resuming is asking the table what is missing. Rows of another identity are
refused, broken or foreign parts set aside. See docs/method.md, "Reward table".
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from corp_ray.errors import RewardTableError
from corp_ray.noise import NOISE_VERSION
from corp_ray.records import OUTCOMES, VERIFIER_ERROR, Candidate, Evaluation
from corp_ray.storage import Storage

log = logging.getLogger(__name__)

HELD_OUT = ("gate", "test")
COMPACT_FROM = 64  # parts from which opening a table merges them into one
_VERSION = b"corp_ray reward table 1"

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
        ("generated_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("engine", pa.string()),
        ("split_digest", pa.string()),
        ("decoding_digest", pa.string()),
        ("task_version", pa.string()),
        ("noise_version", pa.int32()),
    ],
    metadata={b"format": _VERSION},
)


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


Key = tuple[str, str, str]  # center digest, split, direction digest


def _key(evaluation: Evaluation) -> Key:
    return evaluation.center_digest, evaluation.split, evaluation.candidate.digest


class RewardTable:
    """The rows of one run's `rewards/` folder, kept in memory and extended on disk.

    Errors: RewardTableError naming what differs when a row has another identity; DiskFullError
    when a part cannot be written (no row is lost or half written).
    """

    def __init__(self, folder: Storage, identity: Identity):
        self._folder = folder
        self._identity = identity
        self._rows: dict[Key, Evaluation] = {}
        folder.make()
        folder.clean()
        parts = folder.names("*.parquet")
        read = [part for part in parts if self._read(part)]
        if len(read) >= COMPACT_FROM:
            self._write(list(self._rows.values()), f"compact-{uuid.uuid4().hex}.parquet")
            for part in read:
                folder.remove(part)

    def __len__(self) -> int:
        return len(self._rows)

    def evaluations(self) -> list[Evaluation]:
        return list(self._rows.values())

    def get(self, center_digest: str, split: str, candidate: Candidate) -> Evaluation | None:
        return self._rows.get((center_digest, split, candidate.digest))

    def missing(
        self, center_digest: str, split: str, candidates: Iterable[Candidate]
    ) -> list[Candidate]:
        """The candidates without a row, each direction once, in order."""
        absent: dict[str, Candidate] = {}
        for candidate in candidates:
            if (center_digest, split, candidate.digest) not in self._rows:
                absent.setdefault(candidate.digest, candidate)
        return list(absent.values())

    def append(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        """Write the new rows as one part; returns those that were not in the table before."""
        new = {_key(e): e for e in evaluations if _key(e) not in self._rows}
        if new:
            self._write(list(new.values()), f"part-{uuid.uuid4().hex}.parquet")
            self._rows |= new
        return list(new.values())

    def _write(self, evaluations: Sequence[Evaluation], name: str) -> None:
        table = pa.Table.from_pylist([self._record(e) for e in evaluations], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._folder.write_bytes(name, sink.getvalue().to_pybytes())

    def _record(self, e: Evaluation) -> dict:
        wanted = self._identity.engine_on(e.split)
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
            "generated_tokens": e.generated_tokens,
            "seconds": e.seconds,
            "engine": e.engine,
            "split_digest": self._identity.split_digests[e.split],
            "decoding_digest": self._identity.decoding_digest,
            "task_version": self._identity.task_version,
            "noise_version": self._identity.noise_version,
        }

    def _read(self, name: str) -> bool:
        """Take the part's rows in; False when it was set aside."""
        part = self._folder / name
        try:
            table = pq.read_table(pa.BufferReader(self._folder.read_bytes(name)))
            if (table.schema.metadata or {}).get(b"format") != _VERSION:
                raise ValueError("not a part of a reward table of this version")
            records = table.cast(SCHEMA).to_pylist()
            evaluations = [_evaluation(record) for record in records]
        except PermissionError as error:
            raise RewardTableError(f"{part}: cannot be read ({error.strerror})") from error
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            (self._folder / "set_aside").make()
            self._folder.rename(name, f"set_aside/{name}")
            log.warning(
                "%s cannot be used (%s): moved to set_aside/, its candidates are scored again",
                part,
                " ".join(str(error).split())[:200],
            )
            return False
        for record, evaluation in zip(records, evaluations, strict=True):
            self._check(part, record)
            self._rows.setdefault(_key(evaluation), evaluation)
        return True

    def _check(self, part: Storage, record: Mapping) -> None:
        expected = {
            "engine": self._identity.engine_on(record["split"]),
            "split_digest": self._identity.split_digests.get(record["split"]),
            "decoding_digest": self._identity.decoding_digest,
            "task_version": self._identity.task_version,
            "noise_version": self._identity.noise_version,
        }
        for name, wanted in expected.items():
            if record[name] != wanted:
                raise RewardTableError(
                    f"{part}: {name} of {record['candidate_id']} on {record['split']} is "
                    f"{record[name]!r}, this run has {wanted!r}; rows of different {name} never mix"
                )


def _evaluation(record: Mapping) -> Evaluation:
    terms = tuple(zip(record["seeds"], record["amplitudes"], strict=True))
    candidate = Candidate(
        record["candidate_id"],
        record["kind"],
        record["round"],
        terms,
        record["step"],
        record["sigma"],
    )
    if candidate.digest != record["direction_digest"]:
        raise ValueError(f"direction of {candidate.id} does not match its digest")
    if not record["rewards"] or len(record["rewards"]) != len(record["outcomes"]):
        raise ValueError(f"rewards of {candidate.id} are incomplete")
    return Evaluation(
        candidate=candidate,
        center_digest=record["center_digest"],
        split=record["split"],
        rewards=tuple(record["rewards"]),
        outcomes=tuple(OUTCOMES[code] for code in record["outcomes"]),
        generated_tokens=record["generated_tokens"],
        seconds=record["seconds"],
        engine=record["engine"],
    )


def error_share(evaluation: Evaluation) -> float:
    """The share of gradings in which the verifier itself failed."""
    return evaluation.outcomes.count(VERIFIER_ERROR) / len(evaluation.outcomes)
