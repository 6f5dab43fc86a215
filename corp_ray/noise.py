"""Standard normal noise, version 1, as a pure function of (seed, tensor name, element index).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11) makes the
bits; a table of 65,536 normal quantiles turns each 16 of them into one float32. The CPU path is
numba: SIMD over counters, no full-size noise array, the GIL released. See docs/method.md,
"Noise version 1".
"""

from __future__ import annotations

import functools
import hashlib
import statistics

import numpy as np
from numba import njit

NOISE_VERSION = 1
TABLE_SHA256 = "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"
MAX_SEED = (1 << 63) - 1

BLOCK = 4096  # elements a kernel keeps in cache at a time; no result depends on it
_TILE = 8  # seeds whose noise is held together while many directions accumulate
_STRIP = 1024  # elements of such a tile: with the accumulators' strip it stays in the first cache

_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint32(0x9E3779B9)
_W1 = np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


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
    """The seed as int; ValueError outside the unsigned 63-bit range."""
    seed = int(seed)
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is outside 0..2^63-1")
    return seed


@njit(nogil=True, cache=True)
def _philox(seed, n0, n1, first_block, blocks, words):
    """Write 4 words for each of `blocks` counters, in element order, into words (4*blocks,)."""
    key0 = np.uint32(seed & _LOW)
    key1 = np.uint32(seed >> _32)
    for t in range(blocks):
        b = first_block + np.uint64(t)
        c0 = np.uint32(b & _LOW)
        c1 = np.uint32(b >> _32)
        c2 = n0
        c3 = n1
        k0 = key0
        k1 = key1
        for _ in range(10):
            p0 = _M0 * np.uint64(c0)
            p1 = _M1 * np.uint64(c2)
            c0 = np.uint32(p1 >> _32) ^ c1 ^ k0
            c1 = np.uint32(p1 & _LOW)
            c2 = np.uint32(p0 >> _32) ^ c3 ^ k1
            c3 = np.uint32(p0 & _LOW)
            k0 = np.uint32(k0 + _W0)
            k1 = np.uint32(k1 + _W1)
        words[4 * t] = c0
        words[4 * t + 1] = c1
        words[4 * t + 2] = c2
        words[4 * t + 3] = c3


@njit(nogil=True, cache=True)
def _indices(seed, n0, n1, start, count, words):
    """Fill `words` so that its uint16 view at the returned offset holds `count` table indices."""
    first = start >> np.uint64(3)
    offset = np.int64(start & np.uint64(7))
    _philox(seed, n0, n1, first, (offset + count + 7) // 8, words)
    return offset


@njit(nogil=True, cache=True)
def _fill(seed, n0, n1, start, values, table, words):
    """values[i] = noise of element start + i."""
    indices = words.view(np.uint16)
    for low in range(0, values.size, BLOCK):
        part = values[low : low + BLOCK]
        shift = _indices(seed, n0, n1, start + np.uint64(low), part.size, words)
        index = indices[shift : shift + part.size]
        for i in range(part.size):
            part[i] = table[index[i]]


@njit(nogil=True, cache=True)
def _accumulate_one(seeds, amplitudes, n0, n1, start, acc, table, words):
    """acc (count,) = sum over seeds, in order, of fl32(amplitude * noise); count <= BLOCK."""
    indices = words.view(np.uint16)
    acc[:] = np.float32(0)
    for j in range(seeds.size):
        shift = _indices(seeds[j], n0, n1, start, acc.size, words)
        index = indices[shift : shift + acc.size]
        a = amplitudes[j]
        for i in range(acc.size):
            acc[i] += a * table[index[i]]


@njit(nogil=True, cache=True)
def _accumulate_tile(a, tile, acc):
    """acc (count,) += a[j] * tile[j], j in order: 8 roundings per element, one load and store."""
    z0, z1, z2, z3 = tile[0], tile[1], tile[2], tile[3]
    z4, z5, z6, z7 = tile[4], tile[5], tile[6], tile[7]
    a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    for i in range(acc.size):
        x = acc[i] + a0 * z0[i]
        x = x + a1 * z1[i]
        x = x + a2 * z2[i]
        x = x + a3 * z3[i]
        x = x + a4 * z4[i]
        x = x + a5 * z5[i]
        x = x + a6 * z6[i]
        acc[i] = x + a7 * z7[i]


@njit(nogil=True, cache=True)
def _accumulate_many(seeds, amplitudes, n0, n1, start, acc, table, words, tile):
    """acc (K, count) = amplitudes (K, J padded to a multiple of 8) times the noise of J seeds.

    Every noise value is made once. A zero amplitude adds a zero, which changes no bit: an
    accumulator starts at +0 and can never become -0.
    """
    acc[:] = np.float32(0)
    for left in range(0, acc.shape[1], _STRIP):
        right = min(left + _STRIP, acc.shape[1])
        for low in range(0, seeds.size, _TILE):
            for j in range(low, min(low + _TILE, seeds.size)):
                part = tile[j - low, : right - left]
                _fill(seeds[j], n0, n1, start + np.uint64(left), part, table, words)
            for k in range(acc.shape[0]):
                a = amplitudes[k, low : low + _TILE]
                used = False
                for j in range(_TILE):
                    used = used or a[j] != np.float32(0)
                if used:
                    _accumulate_tile(a, tile, acc[k, left:right])


@njit(nogil=True, cache=True)
def accumulate_range(seeds, amplitudes, n0, n1, start, out, table):
    """out (count,) float32 = elements start.. of one direction; any count, one pass, no noise array."""
    words = np.empty(BLOCK // 2 + 4, np.uint32)
    for low in range(0, out.size, BLOCK):
        _accumulate_one(
            seeds, amplitudes, n0, n1, start + np.uint64(low), out[low : low + BLOCK], table, words
        )


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
    _fill(np.uint64(seed), *name_words(name), np.uint64(start), values, table(), word_buffer())
    return values


class Accumulator:
    """Sums K directions over the union of their seeds, one block of elements at a time.

    Shapes: seeds uint64 (J,) ascending, amplitudes float64 (K, J). `block` returns float32
    (K, count <= BLOCK), each noise value generated once, bit for bit the rule
    acc = fl32(acc + fl32(a_j * z_j)) in ascending j. Memory: K * BLOCK floats, so a caller that
    streams never holds K models. One instance per thread.
    """

    def __init__(self, seeds: np.ndarray, amplitudes: np.ndarray):
        self._seeds = np.ascontiguousarray(seeds, np.uint64)
        directions, count = amplitudes.shape
        padded = np.zeros((directions, -(-max(count, 1) // _TILE) * _TILE), np.float32)
        padded[:, :count] = amplitudes
        self._amplitudes = padded
        self._words = word_buffer()
        self._acc = np.empty((directions, BLOCK), np.float32)
        # Rows past the last seed meet amplitude 0, so they must be finite.
        self._tile = np.zeros((_TILE, _STRIP), np.float32)

    def block(self, name: str, start: int, count: int) -> np.ndarray:
        """Elements start..start+count of every direction; valid until the next call."""
        acc = self._acc[:, :count]
        _accumulate_many(
            self._seeds,
            self._amplitudes,
            *name_words(name),
            np.uint64(start),
            acc,
            table(),
            self._words,
            self._tile,
        )
        return acc
