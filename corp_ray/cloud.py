"""A weighted cloud of directions: its mean, and how it spreads around it.

Two forms of the same members. `DenseMembers` is the matrix of all coordinates and a singular value
decomposition: any members, cubic in their number. `DisjointMembers` holds one axis per member, as
in an isotropic round: no two share a seed, so the covariance is a diagonal minus one outer product
and a secular equation has its eigenvalues; memory is linear in members. Both are exact to
rounding. See docs/method.md, "Cloud statistics".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from corp_ray.direction import Direction, SparseRows, from_coordinates, sparse_rows
from corp_ray.secular import roots

# A spread this small beside the values themselves is rounding, not dispersion.
ROUNDING = 64 * np.finfo(np.float64).eps
# Keeps the concentration of a cloud without spread finite; part of the published statistic.
_KAPPA_FLOOR = 1e-12
DENSE_MEMBERS = 1024  # up to so many, the dense form also where seeds are disjoint
DENSE_COORDINATES = 1 << 27  # 1 GiB


@dataclass(frozen=True)
class CloudStatistics:
    """A weighted cloud of directions on S seeds: its mean and how it spreads around it.

    `eigenvalues`, all of them, descending; `axes_RS`, unit principal directions of the first
    `rank` of them (in the disjoint form, of those above 0); `effective_rank` is exp of the entropy
    of the eigenvalues' shares; `kappa` is norm^2 / (trace + 1e-12); `ess` is 1 / sum of squared
    weights.
    """

    seeds: np.ndarray
    mean: Direction
    norm: float
    trace: float
    effective_rank: float
    eigenvalues: np.ndarray
    axes_RS: np.ndarray
    kappa: float
    ess: float
    entropy: float
    largest_weight: float

    @property
    def axes(self) -> tuple[Direction, ...]:
        """`axes_RS` as directions, made anew at every call."""
        return tuple(from_coordinates(self.seeds, axis) for axis in self.axes_RS)


class Members(Protocol):
    """M directions on S seeds, as far as consolidation asks for them."""

    seeds: np.ndarray
    squared_M: np.ndarray  # squared norms

    def combine(self, weights_M: np.ndarray) -> np.ndarray:
        """(S,) the weighted sum."""
        ...

    def along(self, unit_S: np.ndarray) -> np.ndarray:
        """(M,) inner products."""
        ...

    def spectrum(
        self, weights_M: np.ndarray, mean_S: np.ndarray, rank: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of the weighted covariance, descending, and the first axes, up to `rank`."""
        ...


class DenseMembers:
    """Coordinates (M, S) in one matrix. Cost: M S min(M, S)."""

    def __init__(self, sparse: SparseRows):
        if sparse.count * len(sparse.seeds) > DENSE_COORDINATES:
            raise ValueError(
                f"{sparse.count} directions that share seeds, {len(sparse.seeds)} seeds in all: "
                f"more than {DENSE_COORDINATES} coordinates; a round of fewer candidates would do"
            )
        self.seeds, self._rows_MS = sparse.seeds, sparse.dense()
        self.squared_M = np.sum(self._rows_MS**2, axis=1)

    def combine(self, weights_M: np.ndarray) -> np.ndarray:
        return weights_M @ self._rows_MS

    def along(self, unit_S: np.ndarray) -> np.ndarray:
        return self._rows_MS @ unit_S

    def spectrum(
        self, weights_M: np.ndarray, mean_S: np.ndarray, rank: int
    ) -> tuple[np.ndarray, np.ndarray]:
        spread_MS = np.sqrt(weights_M)[:, None] * (self._rows_MS - mean_S)
        _, singular, axes = np.linalg.svd(spread_MS, full_matrices=False)
        return singular**2, axes[:rank]


class DisjointMembers:
    """Members that share no seed: orthogonal, so each is one axis. Cost: see `secular.roots`.

    On the axes x_i / |x_i| the covariance is diag(d) - m m^T, d_i = v_i |x_i|^2, m_i = v_i |x_i|.
    k members of equal d leave k - 1 eigenvalues d, on axes among themselves, and act as one in
    the secular equation; for rewards in steps of 1/E that leaves few equations to solve.
    """

    def __init__(self, sparse: SparseRows):
        self._sparse, self.seeds = sparse, sparse.seeds
        self.squared_M = self._per_member(sparse.amplitudes**2)

    def _per_member(self, values_T: np.ndarray) -> np.ndarray:
        return np.bincount(self._sparse.rows, values_T, self._sparse.count)

    def _on_seeds(self, values_T: np.ndarray) -> np.ndarray:
        found_S = np.zeros(len(self.seeds))
        found_S[self._sparse.columns] = values_T
        return found_S

    def combine(self, weights_M: np.ndarray) -> np.ndarray:
        return self._on_seeds(weights_M[self._sparse.rows] * self._sparse.amplitudes)

    def along(self, unit_S: np.ndarray) -> np.ndarray:
        return self._per_member(self._sparse.amplitudes * unit_S[self._sparse.columns])

    def spectrum(
        self, weights_M: np.ndarray, mean_S: np.ndarray, rank: int
    ) -> tuple[np.ndarray, np.ndarray]:
        d_M = weights_M * self.squared_M
        d_M[d_M <= ROUNDING**2 * np.sum(d_M)] = 0.0
        poles, group_M, sizes = np.unique(d_M, return_inverse=True, return_counts=True)
        weights = np.bincount(group_M, weights_M)
        solved = roots(poles[weights > 0], weights[weights > 0])
        # Members of d = 0 leave zeros, which are filled in below.
        left = np.repeat(np.arange(len(poles)), np.where(poles > 0, sizes - 1, 0))
        found = np.concatenate([solved.values, poles[left]])
        order = np.argsort(-found, kind="stable")
        eigenvalues = np.zeros(min(len(d_M), len(self.seeds)))
        eigenvalues[: len(found)] = found[order]
        m_M = np.sqrt(weights_M * d_M)
        number = 1 + np.arange(len(left)) - np.searchsorted(left, left)

        def vector(k: int) -> np.ndarray:
            if k < len(solved.offset):
                return m_M / solved.minus_root(k, d_M)
            k -= len(solved.offset)
            vector_M, members = np.zeros_like(m_M), np.flatnonzero(group_M == left[k])
            vector_M[members] = _orthogonal_to(m_M[members], int(number[k]))
            return vector_M

        return eigenvalues, self._axes([vector(k) for k in order[:rank].tolist()])

    def _axes(self, vectors: list[np.ndarray]) -> np.ndarray:
        """Vectors over members as unit rows over seeds; as accurate as roots are, so orthogonal."""
        if not vectors:
            return np.zeros((0, len(self.seeds)))
        unit_RM = [v / np.linalg.norm(v) for v in vectors]
        norms_T = np.sqrt(self.squared_M)[self._sparse.rows]
        scale_T = np.divide(
            self._sparse.amplitudes, norms_T, out=np.zeros_like(norms_T), where=norms_T > 0
        )
        return np.array([self._on_seeds(axis[self._sparse.rows] * scale_T) for axis in unit_RM])


def _orthogonal_to(positive: np.ndarray, number: int) -> np.ndarray:
    """Column `number`, from 1, of the reflection whose column 0 is minus the unit vector given."""
    u = positive / np.linalg.norm(positive)
    u[0] += 1.0
    column = -2.0 * u[number] * u / np.sum(u * u)
    column[number] += 1.0
    return column


def members_of(directions: Iterable[Direction]) -> Members:
    """The directions in the form that suits them.

    Errors: ValueError when they share seeds and are too many for a matrix of coordinates.
    """
    sparse = sparse_rows(directions)
    disjoint = len(sparse.seeds) == len(sparse.amplitudes)
    if disjoint and sparse.count > DENSE_MEMBERS:
        return DisjointMembers(sparse)
    return DenseMembers(sparse)


def effective_sample_size(weights: np.ndarray) -> float:
    return float(1.0 / np.sum(np.square(weights)))


def cloud_statistics(members: Members, weights_M: np.ndarray, rank: int) -> CloudStatistics:
    """Weighted mean and principal axes of M directions."""
    mean_S = members.combine(weights_M)
    norm = float(np.linalg.norm(mean_S))
    eigenvalues, axes_RS = members.spectrum(weights_M, mean_S, rank)
    size = float(weights_M @ members.squared_M)
    eigenvalues[eigenvalues <= ROUNDING**2 * size] = 0.0
    trace = float(np.sum(eigenvalues))
    shares = eigenvalues[eigenvalues > 0] / trace if trace > 0 else np.zeros(0)
    effective_rank = math.exp(-float(np.sum(shares * np.log(shares)))) if trace > 0 else 0.0
    used = weights_M[weights_M > 0]
    return CloudStatistics(
        seeds=members.seeds,
        mean=from_coordinates(members.seeds, mean_S),
        norm=norm,
        trace=trace,
        effective_rank=effective_rank,
        eigenvalues=eigenvalues,
        axes_RS=axes_RS,
        kappa=norm**2 / (trace + _KAPPA_FLOOR),
        ess=effective_sample_size(weights_M),
        entropy=-float(np.sum(used * np.log(used))),
        largest_weight=float(np.max(weights_M)),
    )
