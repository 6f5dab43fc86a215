"""Weights: the one-rounding rule, bit for bit, in three dtypes; nothing depends on threads, chunks
or memory layout; steps, sweeps and restoring agree with the exact rule."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from corp_ray import noise, weights
from corp_ray.direction import Direction

GOLDEN = json.loads((Path(__file__).parent / "vectors" / "apply.json").read_text())
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHAPES = {"embed": (301, 64), "layer.0.q": (64, 64), "layer.1.q": (64, 64), "norm": (64,), "b": ()}
ALL_DTYPES = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())


def bits(tensor):
    view = torch.int32 if tensor.dtype == torch.float32 else torch.int16
    return tensor.detach().contiguous().view(-1).view(view).numpy()


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits(a), bits(b))


def model(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.02 * torch.randn(shape, generator=generator)).to(dtype)
        for name, shape in SHAPES.items()
    }


def direction(seed, count, scale=1e-3):
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, noise.MAX_SEED, count)
    return Direction(zip(seeds.tolist(), rng.normal(0, scale, count).tolist(), strict=True))


def like(tensors):
    return {name: torch.full_like(tensor, 7.0) for name, tensor in tensors.items()}


def applied(base, direction, **options):
    out = like(base)
    weights.apply(out, base, direction, **options)
    return out


def reference(base, name, direction):
    """The rule with numpy float32 operations, one at a time, and torch's own final rounding."""
    acc = np.zeros(base.numel(), np.float32)
    for seed, amplitude in direction.terms:
        product = np.float32(amplitude) * noise.gaussian(seed, name, 0, base.numel())
        acc = acc + product
    total = base.float().view(-1).numpy() + acc
    return torch.from_numpy(total).to(base.dtype).view(base.shape)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert same_bits(found[name], expected[name]), name


def from_bits(values, dtype):
    width = np.uint32 if dtype == torch.float32 else np.uint16
    wide = np.array([v % (np.iinfo(width).max + 1) for v in values], width)
    return torch.from_numpy(wide).view(dtype)


@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_golden_weights_are_exact(index):
    case = GOLDEN[index]
    dtype = DTYPES[case["dtype"]]
    base, expected = from_bits(case["base_bits"], dtype), from_bits(case["result_bits"], dtype)
    found = weights.apply_to_tensor(base, case["name"], Direction(case["direction"]))
    assert same_bits(found, expected)


@ALL_DTYPES
@pytest.mark.parametrize("seeds", [1, 2, 13])
def test_apply_is_the_rule_with_one_rounding_at_the_end(dtype, seeds):
    base, x = model(dtype), direction(seeds, seeds, scale=1e-2)
    found = applied(base, x)
    assert_same(found, {name: reference(base[name], name, x) for name in base})
    assert not same_bits(found["embed"], base["embed"])


@ALL_DTYPES
def test_threads_and_chunks_change_no_bit(dtype, monkeypatch):
    base, x = model(dtype), direction(5, 4)
    expected = applied(base, x)
    for chunk in (1 << 18, noise.BLOCK, 3 * noise.BLOCK, 1000):
        monkeypatch.setattr(weights, "CHUNK", chunk)
        for threads in (1, 2, 3):
            assert_same(applied(base, x, threads=threads), expected)
            acc = {name: torch.empty(t.shape) for name, t in base.items()}
            weights.materialise(acc, x, threads=threads)
            out = like(base)
            weights.apply_step(out, base, acc, 1.0, threads=threads)
            assert_same(out, expected)


def test_no_multiply_is_fused_with_an_add():
    """On float32 zeros a fused kernel would skip the rounding of each product: other bits."""
    count, x = 20_000, direction(11, 6, scale=1.0)
    fused = np.zeros(count, np.float32)
    for seed, amplitude in x.terms:
        wide = np.float64(np.float32(amplitude)) * noise.gaussian(seed, "w", 0, count)
        fused = (fused + wide).astype(np.float32)
    base = torch.zeros(count)
    found = weights.apply_to_tensor(base, "w", x)
    assert same_bits(found, reference(base, "w", x))
    assert np.mean(found.numpy() != fused) > 0.1
    out, held = {"w": torch.empty(count)}, {"w": found}
    weights.apply_step(out, {"w": torch.ones(count)}, held, 0.3)
    scaled = np.float32(0.3) * found.numpy()
    np.testing.assert_array_equal(out["w"].numpy(), np.float32(1) + scaled)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_torchs_own_for_ties_subnormals_infinities_and_nan(dtype):
    """Every upper half of a float32, with lower halves at and around the ties, added to zero."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    acc = torch.from_numpy((upper[:, None] | lower).reshape(-1).view(np.float32))
    base = {"w": torch.zeros(acc.shape, dtype=dtype)}
    out = like(base)
    weights.apply_step(out, base, {"w": acc}, 1.0)
    expected = (base["w"].float() + acc).to(dtype)
    nan = torch.isnan(acc)
    assert torch.equal(torch.isnan(out["w"]), nan)
    assert same_bits(out["w"][~nan], expected[~nan])


def test_infinite_and_nan_weights_stay_what_they_are():
    special = torch.tensor([np.inf, -np.inf, np.nan, 3.3e38, -3.3e38])
    for dtype in (torch.bfloat16, torch.float32):
        found = weights.apply_to_tensor(special.to(dtype), "w", direction(1, 3)).float()
        np.testing.assert_array_equal(found.numpy(), special.to(dtype).float().numpy())


@ALL_DTYPES
def test_the_empty_direction_is_the_identity_even_on_negative_zero(dtype):
    base = {"w": torch.tensor([-0.0, 0.0, 1.5, -2.5, float("inf")], dtype=dtype)}
    assert_same(applied(base, Direction()), base)
    assert same_bits(weights.apply_to_tensor(base["w"], "w", Direction()), base["w"])


def test_center_is_restored_bit_for_bit_after_200_candidates():
    center = model(torch.bfloat16)
    center["norm"][0] = -0.0
    pristine = {name: tensor.clone() for name, tensor in center.items()}
    working = {name: tensor.clone() for name, tensor in center.items()}
    for k in range(200):
        weights.apply(working, center, direction(k, 1 + k % 3, scale=0.1))
        assert not same_bits(working["embed"], pristine["embed"])
        weights.apply(working, center, Direction())
        assert_same(working, pristine)
    assert_same(center, pristine)


def test_working_weights_never_depend_on_the_candidate_before():
    center, x = model(torch.bfloat16), direction(3, 2)
    working = like(center)
    for other in (direction(1, 5), direction(2, 1), Direction()):
        weights.apply(working, center, other)
        weights.apply(working, center, x)
        assert_same(working, applied(center, x))


@ALL_DTYPES
def test_writing_over_the_base_itself_gives_the_same_bits(dtype):
    base, x = model(dtype), direction(8, 9)
    expected = applied(base, x)
    weights.apply(base, base, x, threads=2)
    assert_same(base, expected)


@ALL_DTYPES
def test_a_sweep_is_materialise_and_apply_step_for_every_direction_and_step(dtype, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 2 * noise.BLOCK)
    base, steps = model(dtype), [0.0, 0.5, 1.0, 2.0, 3.7]
    shared = direction(1, 20)
    swept = [
        shared,
        Direction(shared.terms[:5]).scale(2),
        direction(2, 3),
        shared.scale(-1) + direction(2, 3),
    ]
    found = {
        name: np.zeros((len(swept), len(steps), tensor.numel()), bits(tensor).dtype)
        for name, tensor in base.items()
    }
    seen = []
    lock = threading.Lock()

    def sink(name, start, block):
        with lock:
            seen.append((name, start, block.shape[2]))
        stop = start + block.shape[2]
        found[name][:, :, start:stop] = block.view(found[name].dtype)

    weights.stream_sweep(base, swept, steps, sink, threads=2)
    assert sum(count for _, _, count in seen) == sum(t.numel() for t in base.values())
    for k, x in enumerate(swept):
        acc = {name: torch.empty(tensor.shape) for name, tensor in base.items()}
        weights.materialise(acc, x)
        for c, step in enumerate(steps):
            out = like(base)
            weights.apply_step(out, base, acc, step)
            for name in base:
                np.testing.assert_array_equal(found[name][k, c], bits(out[name]))
                total = base[name].float() + acc[name] * torch.tensor(step)
                assert same_bits(out[name], total.to(dtype))


def test_apply_to_tensor_keeps_dtype_shape_and_its_input():
    for name, tensor in model(torch.float16).items():
        before = tensor.clone()
        found = weights.apply_to_tensor(tensor, name, direction(4, 2))
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert found.data_ptr() != tensor.data_ptr()
        assert same_bits(tensor, before) and not same_bits(found, before)
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    assert not weights.apply_to_tensor(parameter, "w", direction(4, 2)).requires_grad


def test_a_tensor_that_is_not_contiguous_is_read_in_c_order():
    wide = model(torch.bfloat16)["embed"]
    for view in (wide.T, wide[::3], wide[:, 5:40], wide.view(7, 43, 64).permute(1, 0, 2)):
        assert not view.is_contiguous()
        expected = weights.apply_to_tensor(view.contiguous(), "w", direction(6, 3))
        assert same_bits(weights.apply_to_tensor(view, "w", direction(6, 3)), expected)


def test_a_tensor_without_elements_is_left_alone():
    empty = torch.empty((0, 5), dtype=torch.bfloat16)
    assert weights.apply_to_tensor(empty, "w", direction(1, 1)).shape == (0, 5)


def test_a_missing_output_or_an_unknown_dtype_is_an_error():
    base = {"w": torch.zeros(8)}
    with pytest.raises(KeyError):
        weights.apply({}, base, direction(1, 1))
    whole = {"w": torch.zeros(8, dtype=torch.int64)}
    with pytest.raises(KeyError):
        weights.apply(like(whole), whole, direction(1, 1))


def test_equal_shapes_get_different_noise():
    zeros = torch.zeros(64, 64)
    first = weights.apply_to_tensor(zeros, "layer.0.q", direction(1, 1))
    second = weights.apply_to_tensor(zeros, "layer.1.q", direction(1, 1))
    correlation = torch.corrcoef(torch.stack([first.view(-1), second.view(-1)]))[0, 1]
    assert abs(correlation) < 0.07
