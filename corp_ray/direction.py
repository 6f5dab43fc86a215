"""Directions: finite maps from a noise seed to an amplitude, with the algebra of vectors.

One seed is one axis and axes count as orthonormal, so the norm is the root mean square change
per parameter. A direction is a few KB and, with the base weights, rebuilds a model. See
docs/method.md, "Directions".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from corp_ray.noise import check_seed
from corp_ray.records import Terms

_LARGEST = float(np.finfo(np.float32).max)  # weights are perturbed in float32


class Direction:
    """An immutable combination of noise axes.

    `terms` is a mapping or an iterable of (seed, amplitude); repeated seeds add up. Stored
    ascending by seed, float64. Errors: ValueError for a seed outside 63 bits or an amplitude that
    float32 cannot hold; TypeError for a seed that is not an integer.
    """

    __slots__ = ("terms",)
    terms: Terms

    def __init__(self, terms: Mapping[int, float] | Iterable[tuple[int, float]] = ()):
        pairs = terms.items() if isinstance(terms, Mapping) else terms
        total: dict[int, float] = {}
        for seed, amplitude in pairs:
            seed, amplitude = check_seed(seed), float(amplitude)
            amplitude += total.get(seed, 0.0)
            if not abs(amplitude) <= _LARGEST:
                raise ValueError(f"amplitude {amplitude} of seed {seed} is not a finite float32")
            total[seed] = amplitude
        object.__setattr__(self, "terms", tuple(sorted(total.items())))

    def __setattr__(self, name, value):
        raise AttributeError("a Direction is immutable")

    def __reduce__(self):
        return Direction, (self.terms,)

    def __eq__(self, other):
        return isinstance(other, Direction) and self.terms == other.terms

    def __hash__(self):
        return hash(self.terms)

    def __len__(self):
        return len(self.terms)

    def __repr__(self):
        return f"Direction({len(self.terms)} seeds, norm {self.norm:.3g})"

    @property
    def norm(self) -> float:
        """Root sum of squared amplitudes: the RMS change per parameter."""
        return math.sqrt(math.fsum(a * a for _, a in self.terms))

    def scale(self, factor: float) -> Direction:
        return Direction((seed, amplitude * factor) for seed, amplitude in self.terms)

    def __add__(self, other: Direction) -> Direction:
        return Direction((*self.terms, *other.terms))

    def dot(self, other: Direction) -> float:
        theirs = dict(other.terms)
        return math.fsum(a * theirs[seed] for seed, a in self.terms if seed in theirs)

    def cosine(self, other: Direction) -> float:
        """Inner product of the unit directions; 0 when either has norm 0."""
        norms = self.norm * other.norm
        return self.dot(other) / norms if norms else 0.0

    def unit(self) -> Direction:
        norm = self.norm
        return self.scale(1 / norm) if norm else self


@dataclass(frozen=True)
class SparseRows:
    """`count` directions as rows over their shared axes, term by term.

    `seeds` uint64 (S,) ascending; term t is `amplitudes[t]` on seed `columns[t]` of direction
    `rows[t]`.
    """

    count: int
    seeds: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    amplitudes: np.ndarray

    def dense(self) -> np.ndarray:
        """Coordinates float64 (count, S)."""
        rows_NS = np.zeros((self.count, len(self.seeds)))
        rows_NS[self.rows, self.columns] = self.amplitudes
        return rows_NS


def sparse_rows(directions: Iterable[Direction]) -> SparseRows:
    listed = [direction.terms for direction in directions]
    lengths = np.fromiter(map(len, listed), np.intp, len(listed))
    total = int(np.sum(lengths))
    seeds_T = np.fromiter((seed for terms in listed for seed, _ in terms), np.uint64, total)
    amplitudes = np.fromiter((a for terms in listed for _, a in terms), np.float64, total)
    seeds, columns = np.unique(seeds_T, return_inverse=True)
    return SparseRows(
        len(listed), seeds, np.repeat(np.arange(len(listed)), lengths), columns, amplitudes
    )


def coordinates(directions: Iterable[Direction]) -> tuple[np.ndarray, np.ndarray]:
    """Directions as rows over their shared axes: seeds uint64 (S,), coordinates float64 (N, S)."""
    sparse = sparse_rows(directions)
    return sparse.seeds, sparse.dense()


def from_coordinates(seeds: np.ndarray, row: np.ndarray) -> Direction:
    """The direction with amplitude row[j] on seeds[j]; exact zeros are left out."""
    used = np.flatnonzero(row)
    return Direction(zip(seeds[used].tolist(), row[used].tolist(), strict=True))
