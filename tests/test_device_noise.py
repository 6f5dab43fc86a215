"""Weights on an accelerator: the torch form of noise version 1, run here on the CPU, gives the golden
bits and those of the compiled kernels, wherever ranges and tensors are cut."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corp_ray import device_noise, noise, weights
from corp_ray.direction import Direction

VECTORS = Path(__file__).parent / "vectors"
NOISE, APPLY = (json.loads((VECTORS / f"{name}.json").read_text()) for name in ("noise", "apply"))
CPU = torch.device("cpu")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHAPES = {"embed": (33, 64), "q.0": (3, 7, 11), "q.1": (3, 7, 11), "norm": (64,), "b": ()}
ALL_DTYPES = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
SECOND_WORD = 2**35  # from this element on, the counter's second word is not zero
STARTS = st.integers(0, 10**6) | st.integers(SECOND_WORD - 2000, 2**64 - 40_000)
SEEDS = st.integers(0, noise.MAX_SEED) | st.sampled_from([0, 2**32 - 1, 2**32, noise.MAX_SEED])


def on_cpu(function, *args):
    """What a function of `weights` returns, or else leaves in its first argument."""
    result = function(*args)
    return args[0] if result is None else result


@pytest.fixture
def on_device(monkeypatch):
    """The same with every tensor, though it lies on a CPU, sent the device way."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(weights, "_split", lambda base: ([], list(base)))
            return on_cpu(function, *args)

    return run


def bits(tensor):
    return tensor.view(-1).view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        np.testing.assert_array_equal(bits(found[name]), bits(tensor), err_msg=name)


def from_bits(values, dtype):
    width = np.uint32 if dtype == torch.float32 else np.uint16
    return torch.from_numpy(np.array(values, np.int64).astype(width)).view(dtype)


def every_upper_half(dtype, lower=0):
    upper = np.arange(1 << 16)
    return {"w": from_bits(upper << 16 | lower if dtype == torch.float32 else upper, dtype)}


def like(tensors, dtype=None):
    return {name: torch.full_like(tensor, 7.0, dtype=dtype) for name, tensor in tensors.items()}


def direction(count, scale=1e-2):
    rng = np.random.default_rng(count)
    seeds = [0, noise.MAX_SEED, *rng.integers(0, noise.MAX_SEED, count).tolist()][:count]
    return Direction(zip(seeds, rng.normal(0, scale, count).tolist(), strict=True))


@pytest.mark.parametrize("case", NOISE, ids=lambda c: f"{c['seed']}-{c['name']}-{c['start']}")
def test_golden_noise_is_exact(case):
    start = case["start"]
    found = device_noise.gaussian(case["seed"], case["name"], start, start + 11, CPU)
    assert_same({"z": found}, {"z": from_bits(case["bits"], torch.float32)})


@pytest.mark.parametrize("case", APPLY, ids=lambda c: f"{c['dtype']}-{c['name']}")
def test_golden_weights_are_exact(case, on_device):
    dtype, x = DTYPES[case["dtype"]], Direction(case["direction"])
    base, expected = (from_bits(case[key], dtype) for key in ("base_bits", "result_bits"))
    found = on_device(weights.apply_to_tensor, base, case["name"], x)
    assert_same({"w": found}, {"w": expected})


@settings(max_examples=200, deadline=None)
@example(0, "w", SECOND_WORD + 3, 0)
@example(noise.MAX_SEED, "w", SECOND_WORD - 7, 16)
@given(SEEDS, st.text(max_size=30), STARTS, st.integers(0, 20) | st.integers(0, 9999))
def test_any_range_even_an_empty_one_has_the_bits_of_the_cpu_kernel(seed, name, start, count):
    found = device_noise.gaussian(seed, name, start, start + count, CPU)
    expected = torch.from_numpy(noise.gaussian(seed, name, start, start + count))
    assert_same({name: found}, {name: expected})


def test_only_tensors_elsewhere_and_all_of_these_tests_take_the_device_way(on_device, monkeypatch):
    monkeypatch.setattr(device_noise, "CHUNK", 0)  # no cut has this size
    base, x = {"w": torch.ones(9)}, direction(1)
    applying, stepping = (weights.apply, base, x), (weights.apply_step, base, base, 1.0)
    for function, *args in (applying, (weights.materialise, x), stepping):
        on_cpu(function, like(base), *args)
        with pytest.raises(ValueError, match="range"):
            on_device(function, like(base), *args)


@ALL_DTYPES
@pytest.mark.parametrize("seeds", [1, 2, 7])
@pytest.mark.parametrize("chunk", [device_noise.CHUNK, 64, 61])
def test_weights_have_the_bits_of_the_cpu_kernels(dtype, seeds, chunk, on_device, monkeypatch):
    monkeypatch.setattr(device_noise, "CHUNK", chunk)
    draw = torch.Generator().manual_seed(seeds)
    base = {n: (torch.randn(shape, generator=draw) / 50).to(dtype) for n, shape in SHAPES.items()}
    pristine, x = {name: tensor.clone() for name, tensor in base.items()}, direction(seeds)
    applied = on_cpu(weights.apply, like(base), base, x)
    assert_same(on_device(weights.apply, like(base), base, x), applied)
    acc = on_cpu(weights.materialise, like(base, torch.float32), x)
    assert_same(on_device(weights.materialise, like(acc), x), acc)
    for step in (0.0, 1.0, -0.37):
        stepped = on_cpu(weights.apply_step, like(base), base, acc, step)
        assert_same(on_device(weights.apply_step, like(base), base, acc, step), stepped)
    assert_same(base, pristine)
    assert_same(on_device(weights.apply, base, base, x), applied)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@ALL_DTYPES
def test_nan_infinities_zeros_and_subnormals_have_the_bits_of_the_cpu_kernels(dtype, on_device):
    """Weights with each of the 65,536 upper halves; then as the sum that a step adds to zeros."""
    base, acc = every_upper_half(dtype), every_upper_half(torch.float32, 0x8000)
    for x in (direction(3), direction(2, scale=1e-40), direction(1, scale=3e38)):
        found = on_device(weights.apply, like(base), base, x)
        assert_same(found, on_cpu(weights.apply, like(base), base, x))
        if dtype == torch.bfloat16:
            assert bits(found["w"])[base["w"].isnan()].unique().tolist() == [0x7FC0]
    zeros = {"w": torch.zeros_like(base["w"])}
    found = on_device(weights.apply_step, like(base), zeros, acc, -0.1)
    assert_same(found, on_cpu(weights.apply_step, like(base), zeros, acc, -0.1))


def test_no_multiply_is_fused_with_an_add(on_device):
    """One rounding of a x b + c, taken in float64 where the product is exact, gives other bits."""
    (seed0, a0), (seed1, a1) = ((seed, np.float32(a)) for seed, a in direction(2, scale=1.0).terms)
    z0, z1 = (noise.gaussian(seed, "w", 0, 5000) for seed in (seed0, seed1))
    acc, ones, step = a1 * z1 + a0 * z0, np.ones(5000, np.float32), np.float32(0.3)
    for a, b, c in ((a1, z1, a0 * z0), (step, acc, ones)):
        assert np.count_nonzero(a * b + c != (np.float64(a) * b + c).astype(np.float32)) > 100
    sums, zeros, base = ({"w": torch.from_numpy(array)} for array in (acc, 0 * ones, ones))
    assert_same(on_device(weights.apply, like(base), zeros, direction(2, scale=1.0)), sums)
    assert_same(on_device(weights.materialise, like(base), direction(2, scale=1.0)), sums)
    found = on_device(weights.apply_step, like(base), base, sums, 0.3)
    assert_same(found, {"w": torch.from_numpy(step * acc + ones)})


@pytest.mark.parametrize("out", [torch.zeros(9), torch.zeros(2, 4), torch.zeros(8).bfloat16()])
def test_an_output_of_another_shape_or_dtype_is_an_error(out, on_device):
    base = {"w": torch.ones(8)}
    for function, *args in ((weights.apply, direction(1)), (weights.apply_step, base, 1.0)):
        with pytest.raises(ValueError, match="w: cannot write"):
            on_device(function, {"w": out}, base, *args)
    assert not out.any()


@ALL_DTYPES
def test_the_empty_direction_copies_every_bit_and_sums_to_plus_zero(dtype, on_device):
    base = every_upper_half(dtype)
    assert_same(on_device(weights.apply, like(base), base, Direction()), base)
    acc = on_device(weights.materialise, like(base, torch.float32), Direction())
    assert_same(acc, {"w": torch.zeros(1 << 16)})
