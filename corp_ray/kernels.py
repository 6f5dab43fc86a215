"""Numba kernels of noise version 1: SIMD over counters, no full-size noise array, GIL released.

All of them stand in one file because numba's cache notices changes of a kernel's own file only.
Multiply and add stay separate roundings: numba fuses them only when told to. See docs/method.md,
"Noise version 1" and "Applying a direction".
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 4096  # elements a kernel keeps in cache at a time; no result depends on it
TILE = 256  # seeds whose noise is held together while many directions accumulate
STRIP = 512  # elements of such a tile, chosen by timing

_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint32(0x9E3779B9)
_W1 = np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


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
def fill(seed, n0, n1, start, values, table, words):
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
def _accumulate_pair(a, p, q, c, tile, k, acc, left, right):
    """acc rows p and q += amplitudes a[p, c], a[q, c] (8 each) times tile rows k, in order.

    Two directions share each load of noise.
    """
    a0, a1, a2, a3 = a[p, c, 0], a[p, c, 1], a[p, c, 2], a[p, c, 3]
    a4, a5, a6, a7 = a[p, c, 4], a[p, c, 5], a[p, c, 6], a[p, c, 7]
    b0, b1, b2, b3 = a[q, c, 0], a[q, c, 1], a[q, c, 2], a[q, c, 3]
    b4, b5, b6, b7 = a[q, c, 4], a[q, c, 5], a[q, c, 6], a[q, c, 7]
    z0, z1, z2, z3 = tile[k[0]], tile[k[1]], tile[k[2]], tile[k[3]]
    z4, z5, z6, z7 = tile[k[4]], tile[k[5]], tile[k[6]], tile[k[7]]
    xs, ys = acc[p, left:right], acc[q, left:right]
    for i in range(xs.size):
        x = xs[i] + a0 * z0[i]
        y = ys[i] + b0 * z0[i]
        x = x + a1 * z1[i]
        y = y + b1 * z1[i]
        x = x + a2 * z2[i]
        y = y + b2 * z2[i]
        x = x + a3 * z3[i]
        y = y + b3 * z3[i]
        x = x + a4 * z4[i]
        y = y + b4 * z4[i]
        x = x + a5 * z5[i]
        y = y + b5 * z5[i]
        x = x + a6 * z6[i]
        y = y + b6 * z6[i]
        xs[i] = x + a7 * z7[i]
        ys[i] = y + b7 * z7[i]


@njit(nogil=True, cache=True)
def accumulate_pass(
    seeds,
    columns,
    column_first,
    rows,
    row_first,
    amplitudes,
    n0,
    n1,
    start,
    count,
    acc,
    table,
    words,
    tile,
):
    """acc (K + 1, :count) += the noise of `seeds` times amplitudes, every noise value made once.

    Group g has rows[row_first[g] : row_first[g + 1]], an even number of accumulators that use the
    same seeds, and for them columns[column_first[g] : column_first[g + 1]], eights of indices into
    `seeds`, ascending; amplitudes (K, eights, 8) are those of a row in its group's order. Padding
    has amplitude 0, which changes no bit: an accumulator starts at +0 and can never become -0.
    """
    for left in range(0, count, STRIP):
        right = min(left + STRIP, count)
        width = right - left
        for j in range(seeds.size):
            fill(seeds[j], n0, n1, start + np.uint64(left), tile[j, :width], table, words)
        for g in range(row_first.size - 1):
            first = column_first[g]
            for c in range(column_first[g + 1] - first):
                for r in range(row_first[g], row_first[g + 1], 2):
                    _accumulate_pair(
                        amplitudes,
                        rows[r],
                        rows[r + 1],
                        c,
                        tile,
                        columns[first + c],
                        acc,
                        left,
                        right,
                    )


@njit(nogil=True, cache=True)
def accumulate_range(seeds, amplitudes, n0, n1, start, out, table):
    """out (count,) float32 = elements start.. of one direction; any count, one pass, no noise array."""
    words = np.empty(BLOCK // 2 + 4, np.uint32)
    for low in range(0, out.size, BLOCK):
        _accumulate_one(
            seeds, amplitudes, n0, n1, start + np.uint64(low), out[low : low + BLOCK], table, words
        )


@njit(nogil=True, cache=True, inline="always")
def _bfloat16_sum(bits, addend):
    """bfloat16 bits plus a float32, rounded to nearest even: bfloat16 bits."""
    total = np.float32(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32) + addend)
    wide = total.view(np.uint32)
    even = np.uint32(np.uint32(wide >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint16(np.uint32(wide + np.uint32(np.uint32(0x7FFF) + even)) >> np.uint32(16))
    return np.uint16(0x7FC0) if total != total else rounded


@njit(nogil=True, cache=True)
def apply_bfloat16(out, base, seeds, amplitudes, n0, n1, start, table):
    acc = np.empty(BLOCK, np.float32)
    for low in range(0, base.size, BLOCK):
        part = base[low : low + BLOCK]
        target = out[low : low + BLOCK]
        accumulate_range(seeds, amplitudes, n0, n1, start + np.uint64(low), acc[: part.size], table)
        for i in range(part.size):
            target[i] = _bfloat16_sum(part[i], acc[i])


@njit(nogil=True, cache=True)
def step_bfloat16(out, base, acc, step):
    for i in range(base.size):
        out[i] = _bfloat16_sum(base[i], step * acc[i])


@njit(nogil=True, cache=True)
def sweep_bfloat16(out, base, acc, steps):
    """out (K, C, count): base + fl32(steps[c] * acc[k])."""
    for k in range(acc.shape[0]):
        for c in range(steps.size):
            step_bfloat16(out[k, c], base, acc[k], steps[c])
