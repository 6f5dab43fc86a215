"""How much of a step survives rounding to the weights' dtype, tensor by tensor.

A step adds fl32(sum of amplitude x noise) to a weight, and the sum is rounded once. Where the
change is small beside the spacing of the dtype's numbers, most weights stay and a few jump. See
docs/method.md, "Diagnosis".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corp_ray import weights
from corp_ray.checkpoint import read_tensors
from corp_ray.direction import Direction
from corp_ray.parameters import TensorSpec

_PIECE = 1 << 22  # elements in float64 at a time


@dataclass(frozen=True)
class Change:
    """Sums over elements of one or more tensors: what was meant to be added, and what was."""

    elements: int = 0
    changed: int = 0
    meant_squared: float = 0.0
    made_squared: float = 0.0
    product: float = 0.0

    def __add__(self, other: Change) -> Change:
        return Change(
            self.elements + other.elements,
            self.changed + other.changed,
            self.meant_squared + other.meant_squared,
            self.made_squared + other.made_squared,
            self.product + other.product,
        )

    def row(self, name: str) -> dict[str, Any]:
        """RMS changes per parameter, their ratio and cosine (0 where nothing was meant or made)."""
        nominal = math.sqrt(self.meant_squared / self.elements) if self.elements else 0.0
        realised = math.sqrt(self.made_squared / self.elements) if self.elements else 0.0
        sizes = math.sqrt(self.meant_squared) * math.sqrt(self.made_squared)
        return {
            "name": name,
            "elements": self.elements,
            "nominal": nominal,
            "realised": realised,
            "ratio": realised / nominal if nominal else 0.0,
            "changed": self.changed / self.elements if self.elements else 0.0,
            "cosine": self.product / sizes if sizes else 0.0,
        }


def change_of(tensor: torch.Tensor, name: str, direction: Direction, *, threads: int = 1) -> Change:
    """What `weights.apply_to_tensor` makes of a tensor, beside the change before rounding."""
    meant = torch.empty(tensor.shape, dtype=torch.float32)
    weights.materialise({name: meant}, direction, threads=threads)
    after = torch.empty_like(tensor)
    # A step of 1 times the sum is the sum: the same weights as `apply`, the noise made once.
    weights.apply_step({name: after}, {name: tensor}, {name: meant}, 1.0, threads=threads)
    total = Change()
    for low in range(0, tensor.numel(), _PIECE):
        cut = slice(low, low + _PIECE)
        made = after.view(-1)[cut].float() - tensor.view(-1)[cut].float()
        wanted, made64 = meant.view(-1)[cut].double(), made.double()
        total += Change(
            made.numel(),
            int(torch.count_nonzero(made)),
            float(wanted @ wanted),
            float(made64 @ made64),
            float(wanted @ made64),
        )
    return total


def rounding_rows(
    folder: Path,
    specs: Sequence[TensorSpec],
    dtype: str,
    direction: Direction,
    *,
    threads: int = 1,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per tensor of a model folder and one for all; one tensor in memory at a time.

    Errors: CheckpointError for a file that cannot be read.
    """
    rows, total = [], Change()
    for spec in specs:
        (tensor,) = read_tensors(folder, [spec], dtype).values()
        change = change_of(tensor, spec.name, direction, threads=threads)
        rows.append(change.row(spec.name))
        total += change
    return rows, total.row("total")
