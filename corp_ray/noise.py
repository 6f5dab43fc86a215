"""Standard normal noise, version 1, as a pure function of (seed, tensor name, element index).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11) makes the
bits; a table of 65,536 normal quantiles turns each 16 of them into one float32. The CPU path is
numba: SIMD over counters, no full-size noise array, the GIL released. See docs/method.md,
"Noise version 1".
"""

from __future__ import annotations

import functools
import hashlib
import operator
import statistics
from dataclasses import dataclass

import numpy as np

from corp_ray.kernels import BLOCK, STRIP, TILE, accumulate_pass, fill

NOISE_VERSION = 1
TABLE_SHA256 = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"
MAX_SEED = (1 << 63) - 1


@functools.cache
def table() -> np.ndarray:
    """The quantile table T, float32 (65536,), mean 0 and variance 1; verified by its SHA-256."""
    quantile = statistics.NormalDist().inv_cdf
    upper = np.array([quantile((u + 0.5) / 65536) for u in range(32768, 65536)])
    values = np.concatenate([-upper[::-1], upper])
    values = (values / np.sqrt(np.mean(values * values))).astype("<f4")
    found = hashlib.sha256(values.tobytes()).hexdigest()
    if found != TABLE_SHA256:
        raise RuntimeError(f"noise table has SHA-256 {found}, noise version 1 needs {TABLE_SHA256}")
    values.flags.writeable = False
    return values


@functools.lru_cache(maxsize=65536)
def name_words(name: str) -> tuple[np.uint32, np.uint32]:
    """The two counter words of a tensor name: the head of SHA-256 of its UTF-8 bytes."""
    head = np.frombuffer(hashlib.sha256(name.encode("utf-8")).digest()[:8], dtype="<u4")
    return np.uint32(head[0]), np.uint32(head[1])


def check_seed(seed: int) -> int:
    """The seed as int; TypeError when it is none, ValueError outside the unsigned 63 bits."""
    seed = operator.index(seed)
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is outside 0..2^63-1")
    return seed


def word_buffer() -> np.ndarray:
    """Scratch for one thread: words of BLOCK elements plus one counter for an unaligned start."""
    return np.empty(BLOCK // 2 + 4, np.uint32)


def gaussian(seed: int, name: str, start: int, stop: int) -> np.ndarray:
    """Elements start..stop of the standard normal field of `seed` for tensor `name`.

    Shapes: returns float32 (stop - start,), element i being index start + i in C order of the
    full unsharded tensor. Errors: ValueError for a seed outside 63 bits or stop < start.
    Source: docs/method.md, "Noise version 1".
    """
    seed = check_seed(seed)
    if not 0 <= start <= stop:
        raise ValueError(f"range [{start}, {stop}) is not a range of elements")
    values = np.empty(stop - start, np.float32)
    fill(np.uint64(seed), *name_words(name), np.uint64(start), values, table(), word_buffer())
    return values


@dataclass(frozen=True)
class _Pass:
    """Arguments of `kernels.accumulate_pass` for one tile of seeds; see there for the shapes."""

    seeds: np.ndarray
    columns: np.ndarray
    column_first: np.ndarray
    rows: np.ndarray
    row_first: np.ndarray
    amplitudes: np.ndarray


def _plan(seeds: np.ndarray, amplitudes: np.ndarray) -> _Pass:
    """Group the rows of amplitudes (K, J) by which seeds they use, in eights; row K is spare."""
    groups: dict[bytes, list[int]] = {}
    for row, used in enumerate(amplitudes != 0):
        groups.setdefault(used.tobytes(), []).append(row)
    spare = len(amplitudes)
    widest = -(-amplitudes.shape[1] // 8)
    packed = np.zeros((spare + 1, widest, 8), np.float32)
    columns, rows, column_first, row_first = [], [], [0], [0]
    for members in groups.values():
        used = np.flatnonzero(amplitudes[members[0]])
        eights = -(-used.size // 8)
        padded = np.zeros(8 * eights, np.int64)
        padded[: used.size] = used
        columns.append(padded.reshape(eights, 8))
        for row in members:
            packed[row].reshape(-1)[: used.size] = amplitudes[row, used]
        rows += members + [spare] * (len(members) % 2)
        column_first.append(column_first[-1] + eights)
        row_first.append(len(rows))
    return _Pass(
        np.ascontiguousarray(seeds, np.uint64),
        np.concatenate(columns) if columns else np.zeros((0, 8), np.int64),
        np.array(column_first),
        np.array(rows, np.int64),
        np.array(row_first),
        packed,
    )


class Accumulator:
    """Sums K directions over the union of their seeds, one block of elements at a time.

    Shapes: seeds uint64 (J,) ascending, amplitudes float64 (K, J). `block` returns float32
    (K, count), count at most BLOCK, each noise value generated once, bit for bit the rule
    acc = fl32(acc + fl32(a_j * z_j)) in ascending j. Memory: K * BLOCK floats, so a caller that
    streams never holds K models. One instance per thread.
    """

    def __init__(self, seeds: np.ndarray, amplitudes: np.ndarray):
        amplitudes32 = np.asarray(amplitudes).astype(np.float32)
        self._passes = [
            _plan(seeds[low : low + TILE], amplitudes32[:, low : low + TILE])
            for low in range(0, len(seeds), TILE)
        ]
        self._words = word_buffer()
        self._acc = np.zeros((len(amplitudes32) + 1, BLOCK), np.float32)
        self._tile = np.zeros((min(TILE, len(seeds)), STRIP), np.float32)

    def block(self, name: str, start: int, count: int) -> np.ndarray:
        """Elements start..start+count of every direction; valid until the next call."""
        if not 0 <= count <= BLOCK:
            raise ValueError(f"a block has 0 to {BLOCK} elements, not {count}")
        acc = self._acc
        acc[:, :count] = 0
        for part in self._passes:
            accumulate_pass(
                part.seeds,
                part.columns,
                part.column_first,
                part.rows,
                part.row_first,
                part.amplitudes,
                *name_words(name),
                np.uint64(start),
                count,
                acc,
                table(),
                self._words,
                self._tile,
            )
        return acc[:-1, :count]
