"""Noise version 1 in plain torch operations, for weights that lie on an accelerator.

The same bits as noise.py, but for those inside a NaN of float16 or float32. Products of 32-bit
words are taken in wrapping int64, and every multiplication and addition of floats is an operation
of its own, so nothing can be fused into a multiply-add. Runs on any device; on a CPU the kernels of
noise.py are faster. See docs/method.md, "Noise version 1" and "Applying a direction".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from corp_ray import noise

CHUNK = 1 << 24  # elements made at a time; scratch memory is about 28 bytes for each

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


@functools.lru_cache(maxsize=8)
def _table(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(noise.table().copy()).to(device)


def _halves(words: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of multiplier x words; words int64 holding 32-bit values."""
    product = words * multiplier  # wraps modulo 2^64; the bits are those of the unsigned product
    return (product >> 32) & _LOW, product & _LOW


def _philox(
    seeds: Sequence[int], words: tuple[int, int], first: int, blocks: int, device: torch.device
) -> torch.Tensor:
    """The output words of `blocks` counters from `first` on, for each seed: int64 (S, blocks, 4)."""
    keys_S1 = torch.tensor(seeds, dtype=torch.int64, device=device)[:, None]
    counter = torch.arange(first, first + blocks, dtype=torch.int64, device=device)[None, :]
    c0, c1 = counter & _LOW, counter >> 32
    c2, c3 = torch.full_like(counter, words[0]), torch.full_like(counter, words[1])
    k0, k1 = keys_S1 & _LOW, keys_S1 >> 32
    for _ in range(10):
        high0, low0 = _halves(c0, _M0)
        high1, low1 = _halves(c2, _M1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), dim=-1)


def _fields(
    seeds: Sequence[int], name: str, start: int, stop: int, device: torch.device
) -> torch.Tensor:
    """Elements start..stop of the fields of all seeds: float32 (S, stop - start)."""
    if not 0 <= start <= stop:
        raise ValueError(f"range [{start}, {stop}) is not a range of elements")
    first = start // 8
    n0, n1 = (int(word) for word in noise.name_words(name))
    words_SB4 = _philox(
        [noise.check_seed(s) for s in seeds], (n0, n1), first, -(-stop // 8) - first, device
    )
    index_SE = torch.stack((words_SB4 & 0xFFFF, words_SB4 >> 16), dim=-1).view(len(seeds), -1)
    return _table(device)[index_SE[:, start - 8 * first : stop - 8 * first]]


def gaussian(seed: int, name: str, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """`noise.gaussian` as a float32 tensor (stop - start,) on a device."""
    return _fields([seed], name, start, stop, device)[0]


def accumulate(
    seeds: Sequence[int], amplitudes: Sequence[float], name: str, start: int, out: torch.Tensor
) -> None:
    """out (count,) float32 = sum over seeds, in order, of fl32(amplitude x noise), from `start`.

    Amplitudes must be float32 numbers. As many seeds as CHUNK elements hold are made at once, which
    saves small tensors most of their kernel launches; the sum still goes seed by seed.
    """
    out.zero_()
    together = max(1, CHUNK // max(out.numel(), 1))
    factors_S1 = torch.tensor(amplitudes, dtype=torch.float32, device=out.device)[:, None]
    for low in range(0, len(seeds), together):
        part = seeds[low : low + together]
        values_SE = _fields(part, name, start, start + out.numel(), out.device)
        values_SE.mul_(factors_S1[low : low + together])
        for values_E in values_SE:
            out.add_(values_E)


def add(out: torch.Tensor, base: torch.Tensor, addend: torch.Tensor) -> None:
    """out = round_to_dtype(fl32(float32(base) + addend)); a NaN in bfloat16 becomes 7fc0."""
    total = base.float() + addend
    out.copy_(total)
    if out.dtype == torch.bfloat16:
        out.view(torch.int16).masked_fill_(total.isnan(), 0x7FC0)
