"""Apply directions to weights: pristine + sum of amplitude x noise, one rounding per element.

Rule (noise version 1): acc = fl32(acc + fl32(a_j * z_j)) ascending by seed, no fused
multiply-add, then W' = round_to_nearest_even(fl32(float32(W) + acc)) in W's dtype, always from
the pristine center. The empty direction is the identity, bit for bit. Tensors on a CPU go through
compiled kernels, those on an accelerator through device_noise.py, with the same bits. Work is cut
into chunks; no result depends on the cuts. See docs/method.md, "Applying a direction".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from corp_ray import device_noise, kernels, noise
from corp_ray.direction import Direction, coordinates

CHUNK = 1 << 18  # elements one thread takes at a time, a multiple of noise.BLOCK

Tensors = Mapping[str, torch.Tensor]

_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.float16, torch.float32: torch.float32}


def flat_bits(tensor: torch.Tensor) -> np.ndarray:
    """A contiguous CPU tensor's memory as a flat array: uint16 bits for bfloat16, else its floats."""
    return tensor.detach().view(-1).view(_BITS[tensor.dtype]).numpy()


def _alike(name: str, out: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both flat. A kernel checks no bounds, so ValueError unless they are alike; KeyError for a
    dtype without a rule."""
    _ = _BITS[base.dtype]
    if (out.shape, out.dtype, out.device) != (base.shape, base.dtype, base.device):
        raise ValueError(
            f"{name}: cannot write {base.dtype} {tuple(base.shape)} on {base.device} "
            f"into {out.dtype} {tuple(out.shape)} on {out.device}"
        )
    return out.detach().view(-1), base.detach().view(-1)


def _pair(name: str, out: torch.Tensor, base: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    target, source = _alike(name, out, base)
    return flat_bits(target), flat_bits(source)


def _sum(name: str, acc: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """A float32 sum, flat. ValueError for another dtype, or another shape than `like` has."""
    if acc.dtype != torch.float32 or (like is not None and acc.shape != like.shape):
        wanted = "" if like is None else f" {tuple(like.shape)}"
        raise ValueError(f"{name}: a sum is float32{wanted}, not {acc.dtype} {tuple(acc.shape)}")
    return acc.detach().view(-1)


def _device_cuts(flat: torch.Tensor) -> Iterator[slice]:
    for low in range(0, flat.numel(), device_noise.CHUNK):
        yield slice(low, min(low + device_noise.CHUNK, flat.numel()))


def _split(base: Tensors) -> tuple[list[str], list[str]]:
    """The names of tensors on a CPU, and of those elsewhere."""
    cpu = [name for name, tensor in base.items() if tensor.device.type == "cpu"]
    return cpu, [name for name in base if name not in set(cpu)]


def _apply_chunk(out, base, name, start, seeds, amplitudes):
    words = noise.name_words(name)
    if base.dtype == np.uint16:
        kernels.apply_bfloat16(
            out, base, seeds, amplitudes, *words, np.uint64(start), noise.table()
        )
        return
    acc = np.empty(min(base.size, 1 << 14), np.float32)
    for low in range(0, base.size, acc.size):
        part = acc[: base.size - low]
        kernels.accumulate_range(
            seeds, amplitudes, *words, np.uint64(start + low), part, noise.table()
        )
        total = base[low : low + part.size].astype(np.float32) + part
        out[low : low + part.size] = total.astype(base.dtype)


def _step_chunk(out, base, acc, step):
    step = np.float32(step)
    if base.dtype == np.uint16:
        kernels.step_bfloat16(out, base, acc, step)
    else:
        out[:] = (base.astype(np.float32) + step * acc).astype(base.dtype)


def _arrays(direction: Direction) -> tuple[np.ndarray, np.ndarray]:
    seeds = np.array([seed for seed, _ in direction.terms], np.uint64)
    return seeds, np.array([amplitude for _, amplitude in direction.terms]).astype(np.float32)


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="corp-weights")


def _chunks(sizes: Mapping[str, int]) -> Iterator[tuple[str, slice]]:
    for name, size in sizes.items():
        for low in range(0, size, CHUNK):
            yield name, slice(low, min(low + CHUNK, size))


def _run(task: Callable[[str, slice], Any], sizes: Mapping[str, int], threads: int) -> None:
    if threads == 1:
        for name, cut in _chunks(sizes):
            task(name, cut)
        return
    pool = _threads(threads)
    for future in [pool.submit(task, name, cut) for name, cut in _chunks(sizes)]:
        future.result()


def apply(out: Tensors, base: Tensors, direction: Direction, *, threads: int = 1) -> None:
    """Write base + direction into `out`, tensor by tensor, for every name in `base`.

    Shapes: contiguous tensors, out[name] like base[name]; dtypes bfloat16, float16, float32. No
    full-size noise array exists. Errors: KeyError for a name missing in `out` or a dtype that
    noise version 1 does not define; ValueError for a shape, dtype or device that differs.
    """
    if not direction.terms:
        for name in base:
            target, source = _alike(name, out[name], base[name])
            target.copy_(source)
        return
    seeds, amplitudes = _arrays(direction)
    cpu, elsewhere = _split(base)
    pairs = {name: _pair(name, out[name], base[name]) for name in cpu}

    def task(name: str, cut: slice) -> None:
        target, source = pairs[name]
        _apply_chunk(target[cut], source[cut], name, cut.start, seeds, amplitudes)

    _run(task, {name: source.size for name, (_, source) in pairs.items()}, threads)
    for name in elsewhere:
        target, source = _alike(name, out[name], base[name])
        for cut in _device_cuts(source):
            acc = torch.empty(source[cut].shape, dtype=torch.float32, device=source.device)
            device_noise.accumulate(seeds.tolist(), amplitudes.tolist(), name, cut.start, acc)
            device_noise.add(target[cut], source[cut], acc)


def apply_to_tensor(tensor: torch.Tensor, name: str, direction: Direction) -> torch.Tensor:
    """`tensor` (full and unsharded, any device) plus `direction`: a new tensor of the same dtype."""
    source = tensor.detach().contiguous()
    result = torch.empty_like(source)
    apply({name: result}, {name: source}, direction)
    return result


def materialise(out: Tensors, direction: Direction, *, threads: int = 1) -> None:
    """Write the float32 sum of amplitude x noise into out[name], every tensor float32."""
    seeds, amplitudes = _arrays(direction)
    cpu, elsewhere = _split(out)
    flat = {name: flat_bits(_sum(name, out[name])) for name in cpu}

    def task(name: str, cut: slice) -> None:
        kernels.accumulate_range(
            seeds,
            amplitudes,
            *noise.name_words(name),
            np.uint64(cut.start),
            flat[name][cut],
            noise.table(),
        )

    _run(task, {name: array.size for name, array in flat.items()}, threads)
    for name in elsewhere:
        target = _sum(name, out[name])
        for cut in _device_cuts(target):
            device_noise.accumulate(
                seeds.tolist(), amplitudes.tolist(), name, cut.start, target[cut]
            )


def apply_step(out: Tensors, base: Tensors, acc: Tensors, step: float, *, threads: int = 1) -> None:
    """Write base + fl32(step * acc) into `out`, `acc` from `materialise`; one rounding."""
    cpu, elsewhere = _split(base)
    triples = {n: (*_pair(n, out[n], base[n]), flat_bits(_sum(n, acc[n], base[n]))) for n in cpu}

    def task(name: str, cut: slice) -> None:
        target, source, total = triples[name]
        _step_chunk(target[cut], source[cut], total[cut], step)

    _run(task, {name: source.size for name, (_, source, _) in triples.items()}, threads)
    for name in elsewhere:
        target, source = _alike(name, out[name], base[name])
        total = _sum(name, acc[name], base[name])
        for cut in _device_cuts(source):
            scaled = total[cut] * float(np.float32(step))
            device_noise.add(target[cut], source[cut], scaled)


Sink = Callable[[str, int, np.ndarray], None]


def stream_sweep(
    base: Tensors,
    directions: Sequence[Direction],
    steps: Sequence[float],
    sink: Sink,
    *,
    threads: int = 1,
) -> None:
    """Every direction at every step, streamed: each noise value is generated once for all of them.

    Calls sink(name, start, bits) with blocks of base + fl32(step * acc) as in `apply_step`; bits
    (len(directions), len(steps), count) as in `flat_bits`, valid during the call, from any thread.
    Memory: one such block per thread, never a model.
    """
    seeds, rows_KS = coordinates(directions)
    flat = {name: flat_bits(tensor) for name, tensor in base.items()}
    steps32 = np.array(steps, np.float32)

    def task(name: str, cut: slice) -> None:
        accumulator = noise.Accumulator(seeds, rows_KS)
        blocks = np.empty((len(directions), len(steps32), noise.BLOCK), flat[name].dtype)
        for low in range(cut.start, cut.stop, noise.BLOCK):
            source = flat[name][low : min(low + noise.BLOCK, cut.stop)]
            acc = accumulator.block(name, low, source.size)
            bits = blocks[:, :, : source.size]
            if source.dtype == np.uint16:
                kernels.sweep_bfloat16(bits, source, acc, steps32)
            else:
                scaled = steps32[None, :, None] * acc[:, None, :]
                bits[:] = (source.astype(np.float32) + scaled).astype(source.dtype)
            sink(name, low, bits)

    _run(task, {name: array.size for name, array in flat.items()}, threads)
