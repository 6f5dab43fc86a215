"""Noise version 1: golden bits, Random123's known answers, the quantile table, and no dependence
on how a range is cut, which thread asks, or how many directions are summed at once."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray import kernels, noise

GOLDEN = json.loads((Path(__file__).parent / "vectors" / "noise.json").read_text())
M32 = 0xFFFFFFFF
LAST_ELEMENT = 2**64 - 40_000  # element indices are unsigned 64-bit; ranges stay below the end


def philox_4x32_10(counter, key):
    """The published algorithm on Python integers, written without a look at the kernel."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M32, (p0 >> 32) ^ c[3] ^ k[1], p0 & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def slow_gaussian(seed, name, start, stop):
    """SPEC.md section 1, one element at a time."""
    head = hashlib.sha256(name.encode("utf-8")).digest()
    n0, n1 = (int.from_bytes(head[at : at + 4], "little") for at in (0, 4))
    values = []
    for i in range(start, stop):
        b, place = divmod(i, 8)
        words = philox_4x32_10((b & M32, b >> 32, n0, n1), (seed & M32, seed >> 32))
        word = words[place // 2]
        values.append(noise.table()[word >> 16 if place % 2 else word & 0xFFFF])
    return np.array(values, np.float32)


def slow_sum(seeds, amplitudes, name, start, stop):
    """acc = fl32(acc + fl32(a * z)) with every float32 operation on its own."""
    acc = np.zeros(stop - start, np.float32)
    for seed, amplitude in zip(seeds, amplitudes, strict=True):
        product = np.float32(amplitude) * noise.gaussian(int(seed), name, start, stop)
        acc = acc + product
    return acc


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['seed']}-{c['name']}-{c['start']}")
def test_golden_bits_are_exact(case):
    bits = np.array([b % 2**32 for b in case["bits"]], np.uint32)
    values = noise.gaussian(case["seed"], case["name"], case["start"], case["start"] + 11)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view(np.uint32), bits)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([M32] * 4, [M32] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_slow_reference_gives_the_known_answers_of_random123(counter, key, words):
    assert philox_4x32_10(counter, key) == [int(word, 16) for word in words.split()]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x1234567_89ABCDEF, noise.MAX_SEED])
@pytest.mark.parametrize("start", [5, 4093, 8 * 2**32 - 13, 3 * 2**40 + 1, LAST_ELEMENT])
def test_an_independent_slow_reference_agrees_where_no_vector_looks(seed, start):
    for name in ("lm_head.weight", "größe.重み"):
        expected = slow_gaussian(seed, name, start, start + 27)
        assert same_bits(noise.gaussian(seed, name, start, start + 27), expected)


def test_table_is_the_published_one_and_antisymmetric():
    table = noise.table()
    assert table.dtype == np.dtype("<f4") and table.shape == (65536,)
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    assert digest == "8babbcaf96568f10165a1eab530c0e5c92d04de96761b6dbb3dadfa94baba37f"
    assert digest == noise.TABLE_SHA256
    np.testing.assert_array_equal(table, -table[::-1])
    wide = table.astype(np.float64)
    assert np.mean(wide) == 0.0
    assert abs(np.mean(wide**2) - 1) < 1e-7
    assert np.all(np.diff(wide) > 0) and 4.32 < wide[-1] < 4.33


def test_table_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        noise.table()[0] = 0.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, noise.MAX_SEED),
    base=st.integers(0, 10**6) | st.integers(2**32 * 8 - 20, 2**32 * 8) | st.just(LAST_ELEMENT),
    before=st.integers(0, 5000),
    inside=st.integers(0, 5000),
    after=st.integers(0, 5000),
)
def test_any_range_is_the_slice_of_a_bigger_one(seed, base, before, inside, after):
    big = noise.gaussian(seed, "w", base, base + before + inside + after)
    part = noise.gaussian(seed, "w", base + before, base + before + inside)
    assert same_bits(part, big[before : before + inside])


def test_many_python_threads_get_the_bits_one_thread_gets():
    jobs = [(seed, f"layer.{seed % 3}", 1000 * seed + 3, 1000 * seed + 9000) for seed in range(64)]
    alone = [noise.gaussian(*job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: noise.gaussian(*job), jobs))
    assert all(same_bits(a, b) for a, b in zip(alone, together, strict=True))


def test_names_of_one_shape_and_seeds_and_neighbours_are_uncorrelated():
    count = 1 << 18
    z = noise.gaussian(7, "model.layers.0.mlp.up_proj.weight", 0, count + 8).astype(np.float64)
    others = {
        "another tensor": noise.gaussian(7, "model.layers.1.mlp.up_proj.weight", 0, count),
        "another seed": noise.gaussian(8, "model.layers.0.mlp.up_proj.weight", 0, count),
        "high key word": noise.gaussian(7 + 2**32, "model.layers.0.mlp.up_proj.weight", 0, count),
        **{f"{lag} further": z[lag : lag + count] for lag in range(1, 9)},
    }
    for what, other in others.items():
        correlation = np.mean(z[:count] * other)
        assert abs(correlation) < 4.5 / math.sqrt(count), what


def test_moments_are_those_of_a_standard_normal():
    count = 1 << 21
    z = noise.gaussian(20260531, "model.embed_tokens.weight", 11, 11 + count).astype(np.float64)
    for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        of_table = np.mean(noise.table().astype(np.float64) ** power)
        assert abs(of_table - expected) < 0.01
        deviation = math.sqrt(np.mean(noise.table().astype(np.float64) ** (2 * power)) / count)
        assert abs(np.mean(z**power) - of_table) < 4.5 * deviation
    inside = np.mean(np.abs(z) < 1)
    assert abs(inside - 0.6827) < 0.002


@pytest.mark.parametrize("directions", [1, 2, 3, 6])
@pytest.mark.parametrize("seeds", [1, 3, 7, 8, 9, 16, 21])
def test_summing_many_directions_at_once_gives_the_bits_of_each_alone(directions, seeds):
    rng = np.random.default_rng(100 * directions + seeds)
    chosen = np.sort(rng.integers(0, noise.MAX_SEED, seeds).astype(np.uint64))
    amplitudes = rng.normal(0, 1e-3, (directions, seeds))
    amplitudes[rng.random(amplitudes.shape) < 0.3] = 0.0
    amplitudes[-1, : seeds // 2] = 0.0
    accumulator = noise.Accumulator(chosen, amplitudes)
    for start, count in ((0, noise.BLOCK), (12345, 1), (8 * 2**32 - 3, 1025), (6, 1023), (4, 13)):
        block = accumulator.block("w", start, count).copy()
        assert block.shape == (directions, count)
        for row, own in zip(block, amplitudes, strict=True):
            assert same_bits(row, slow_sum(chosen, own, "w", start, start + count))
            kept = own != 0
            alone = np.empty(count, np.float32)
            kernels.accumulate_range(
                chosen[kept],
                own[kept].astype(np.float32),
                *noise.name_words("w"),
                np.uint64(start),
                alone,
                noise.table(),
            )
            assert same_bits(row, alone)


def test_a_direction_of_zeros_or_of_no_seed_sums_to_plus_zero():
    for amplitudes in (np.zeros((2, 9)), np.zeros((2, 0))):
        seeds = np.arange(amplitudes.shape[1], dtype=np.uint64)
        block = noise.Accumulator(seeds, amplitudes).block("w", 3, 100)
        assert same_bits(block.copy(), np.zeros((2, 100), np.float32))


def test_a_long_range_sums_to_the_bits_of_its_blocks():
    seeds, amplitudes = np.array([3, 9, 27], np.uint64), np.array([1, -0.5, 3e-3], np.float32)
    total = np.empty(3 * noise.BLOCK + 77, np.float32)
    words = noise.name_words("w")
    kernels.accumulate_range(seeds, amplitudes, *words, np.uint64(5), total, noise.table())
    assert same_bits(total, slow_sum(seeds, amplitudes, "w", 5, 5 + total.size))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_a_seed_outside_63_bits_is_an_error(seed):
    with pytest.raises(ValueError, match="seed"):
        noise.gaussian(seed, "w", 0, 8)


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (5, 4)])
def test_a_range_that_runs_backwards_is_an_error(start, stop):
    with pytest.raises(ValueError, match="range"):
        noise.gaussian(0, "w", start, stop)


def test_an_empty_range_is_empty():
    assert noise.gaussian(1, "w", 9, 9).shape == (0,)
