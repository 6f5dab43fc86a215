"""An ablation: the transformers engine with one noise for all tensors of a shape.

Every tensor takes the noise of its shape's name in place of its own, as a device generator that is
seeded anew for every tensor would give it. For scores only: nothing made with it can be committed,
since a staged folder has the real noise. `engine.kind=tests.shared_noise:SharedNoiseEngine`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from corp_ray import weights
from corp_ray.direction import Direction
from corp_ray.engines.self_check import KNOWN
from corp_ray.engines.transformers import TransformersEngine

_KNOWN = {seed for seed, _ in KNOWN.terms}


def noise_name(tensor: torch.Tensor) -> str:
    return f"shape {tuple(tensor.shape)}"


class SharedNoiseEngine(TransformersEngine):
    """Engine protocol; the self-check's direction alone goes by the real rule."""

    _sums: dict[str, torch.Tensor] | None = None

    def apply(self, direction: Direction, only: Sequence[str] | None = None) -> None:
        if not direction.terms or _KNOWN.issuperset(seed for seed, _ in direction.terms):
            super().apply(direction, only)
            return
        super().apply(Direction())
        self._moved = frozenset(self._names)
        for base in self._center.groups(self._names):
            for name, tensor in base.items():
                key = noise_name(tensor)
                weights.apply(
                    {key: self._working[name]},
                    {key: tensor},
                    direction,
                    threads=self._settings.threads,
                )

    def hold(self, direction: Direction) -> None:
        if _KNOWN.issuperset(seed for seed, _ in direction.terms):
            super().hold(direction)
            return
        self._sums = {}
        for name in self._names:
            total = torch.empty(self._center.shape(name), dtype=torch.float32, device=self._device)
            weights.materialise(
                {noise_name(total): total}, direction, threads=self._settings.threads
            )
            self._sums[name] = total

    def apply_step(self, step: float) -> None:
        if self._sums is None:
            super().apply_step(step)
            return
        self._moved = frozenset(self._names)
        for base in self._center.groups(self._names):
            out = {name: self._working[name] for name in base}
            weights.apply_step(out, base, self._sums, step, threads=self._settings.threads)

    def release(self) -> None:
        self._sums = None
        super().release()

    def describe(self) -> str:
        return f"{super().describe()}, one noise for all tensors of a shape"
