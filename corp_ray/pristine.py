"""The pristine center of an engine, kept where memory allows, and what is added to it.

Candidates are always made from the center's own tensors, never from perturbed ones. They stay on
the engine's device, in the host's memory (pinned for an accelerator), or are read again from the
model folder each time. See docs/method.md, "Memory of an actor".
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from corp_ray import checkpoint, parameters, weights
from corp_ray.direction import Direction
from corp_ray.errors import EngineError
from corp_ray.weights import Tensors

GROUP = 1 << 25  # elements that are on their way from host or disk at a time


@dataclass(frozen=True)
class Change:
    """What is added to the center: a direction by the exact rule, or a step of the held one."""

    direction: Direction = field(default_factory=Direction)
    step: float | None = None


def choose_place(wanted: str, elements: int, dtype: str, device: torch.device, ranks: int) -> str:
    """Where the center is kept: "device", "host" or "disk"; `wanted` unless that is "auto".

    It counts the center and the float32 sum that a sweep holds. On an accelerator they may take a
    quarter of its memory, in the host half of it, shared by the `ranks` of a tensor-parallel
    engine, each of which needs every full tensor.
    """
    if wanted != "auto":
        return wanted
    needed = elements * (checkpoint.DTYPES[dtype].itemsize + 4)
    on_gpu = device.type == "cuda"
    if on_gpu and needed <= torch.cuda.get_device_properties(device).total_memory / 4:
        return "device"
    host_bytes = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _container_bytes())
    return "host" if needed * ranks <= host_bytes / 2 else "disk"


def _container_bytes() -> float:
    """The memory limit of this process's control group, or infinity."""
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text("ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


class Pristine:
    """The float tensors of a model folder in a run's dtype, by canonical name.

    `place` as from `choose_place`. Errors: CheckpointError for an unreadable folder.
    """

    def __init__(self, folder: Path, dtype: str, device: torch.device, place: str, threads: int):
        self._folder, self._dtype, self._device = folder, dtype, device
        self.threads = threads
        self._specs = {spec.name: spec for spec in parameters.read_specs(folder) if spec.is_float}
        self.names = tuple(self._specs)
        self._in_place = place == "device" or (place == "host" and device.type == "cpu")
        self._kept: dict[str, torch.Tensor] = {}
        self._held: dict[str, torch.Tensor] = {}
        self._held_direction: Direction | None = None
        if place != "disk":
            tensors = checkpoint.read_tensors(folder, list(self._specs.values()), dtype)
            self._kept = {name: self._put(tensors[name]) for name in self.names}

    def _put(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._in_place:
            return tensor.to(self._device)
        return tensor.to("cpu").pin_memory() if self._device.type == "cuda" else tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return self._specs[name].shape

    def groups(self, names: Collection[str], limit: int | None = None) -> Iterator[Tensors]:
        """The named tensors on the device, a few at a time, in the order of `names`.

        Without a limit (in elements) tensors that already are on the device come all at once. They
        are the center itself: never to be written to.
        """
        if limit is None and self._in_place:
            yield {name: self._kept[name] for name in names}
            return
        waiting: list[str] = []
        size = 0
        for name in names:
            if waiting and size + self._specs[name].size > (limit or GROUP):
                yield self._fetch(waiting)
                waiting, size = [], 0
            waiting.append(name)
            size += self._specs[name].size
        if waiting:
            yield self._fetch(waiting)

    def _fetch(self, names: Sequence[str]) -> Tensors:
        found = self._kept or checkpoint.read_tensors(
            self._folder, [self._specs[name] for name in names], self._dtype
        )
        return {name: found[name].to(self._device, non_blocking=True) for name in names}

    def hold(self, direction: Direction, names: Collection[str]) -> None:
        """Keep the float32 sum of a direction for changes by step; with the center on disk, keep
        the direction alone and build the sum anew for each step."""
        self._held_direction = direction
        if not self._kept:
            return
        place = self._device if self._in_place else torch.device("cpu")
        kept, self._held = self._held, {}
        for name in names:
            found = kept.get(name)
            if found is None:
                found = torch.empty(self.shape(name), dtype=torch.float32, device=place)
                if place != self._device:
                    found = found.pin_memory()
            self._held[name] = found
        if self._in_place or self._device.type == "cpu":
            held = {name: self._held[name] for name in names}
            weights.materialise(held, direction, threads=self.threads)
            return
        for name in names:
            self._held[name].copy_(self._sums([name])[name])

    def _sums(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        if self._held_direction is None:
            raise EngineError("a step was asked for while no direction is held")
        sums = {
            n: torch.empty(self.shape(n), dtype=torch.float32, device=self._device) for n in names
        }
        weights.materialise(sums, self._held_direction, threads=self.threads)
        return sums

    def release(self) -> None:
        self._held, self._held_direction = {}, None

    def write(self, out: Tensors, base: Tensors, change: Change) -> None:
        """Write base + change into `out` for every name in `base`, a group as from `groups`."""
        if change.step is None:
            weights.apply(out, base, change.direction, threads=self.threads)
            return
        if self._held:
            held = {name: self._held[name].to(self._device, non_blocking=True) for name in base}
        else:
            held = self._sums(base)
        weights.apply_step(out, base, held, change.step, threads=self.threads)
