"""Split-half analysis: would another half of the examples find the same structure in a population?

Three statistics, each a mean over random halvings of the examples with the same candidates in both
halves, and each beside its null: the same statistic after every example's rewards were permuted
over candidates, each example on its own, which keeps how hard an example is. Pure numpy, no state.
See docs/method.md, "Split-half analysis". The correction for half length is that of Spearman and
Brown (1910); subspaces are compared by principal angles (Bjorck and Golub 1973).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from corp_ray.cloud import ROUNDING
from corp_ray.direction import SparseRows

_EIGEN_SIZES = 2500  # sum of matrix sizes for one table: what bounds the halvings of the overlap
_FEWEST_HALVINGS = 8


@dataclass(frozen=True)
class Tested:
    """A statistic beside its null: p is (1 + count of null >= value) / (1 + permutations)."""

    value: float
    null_mean: float
    null_p95: float
    p_value: float


@dataclass(frozen=True)
class SplitHalf:
    """Result of `split_half`; `subspace_overlap[r]` is that of rank r + 1."""

    reliability: Tested
    direction_cosine: Tested
    subspace_overlap: tuple[Tested, ...]
    subspace_halvings: int


def tested(value: float, null_P: np.ndarray) -> Tested:
    """Compare a value with draws of its null, large values being evidence."""
    # What differs by rounding alone counts as equal, against significance.
    at_least = np.count_nonzero(null_P >= value - 1e-9 * abs(value))
    return Tested(
        float(value),
        float(np.mean(null_P)),
        float(np.quantile(null_P, 0.95)),
        float((1 + at_least) / (1 + len(null_P))),
    )


def draw_halves(examples: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random halvings, bool (count, E): True for the first half, E // 2 examples of it."""
    first_E = np.arange(examples) < examples // 2
    return rng.permuted(np.tile(first_E, (count, 1)), axis=1)


def permuted(rewards_NE: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every example's rewards permuted over candidates, each example independently."""
    return rng.permuted(rewards_NE, axis=0)


def half_means(rewards_NE: np.ndarray, halves_HE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean rewards of each candidate on both halves, (N, H) each."""
    first_EH = halves_HE.T.astype(np.float64)
    second_EH = 1.0 - first_EH
    return (
        rewards_NE @ first_EH / np.sum(first_EH, axis=0),
        rewards_NE @ second_EH / np.sum(second_EH, axis=0),
    )


def spearman_brown(correlation: float) -> float:
    """Correlation of two whole tests from that of two halves: 2 r / (1 + |r|), which is the
    formula of Spearman and Brown for r >= 0 and odd in r."""
    return 2 * correlation / (1 + abs(correlation))


def reliability(first_NH: np.ndarray, second_NH: np.ndarray) -> float:
    """Spearman-Brown corrected mean correlation of the halves' mean rewards.

    A halving in which all candidates of a half are equal tells them not apart and counts as 0.
    """
    a_NH, b_NH = first_NH - np.mean(first_NH, axis=0), second_NH - np.mean(second_NH, axis=0)
    size_H = np.sqrt(np.sum(a_NH**2, axis=0) * np.sum(b_NH**2, axis=0))
    distinct_H = (np.ptp(first_NH, axis=0) > ROUNDING) & (np.ptp(second_NH, axis=0) > ROUNDING)
    products_H = np.sum(a_NH * b_NH, axis=0)
    r_H = np.divide(products_H, size_H, out=np.zeros_like(size_H), where=distinct_H)
    return spearman_brown(float(np.mean(r_H)))


def _masked_softmax(logits_NH: np.ndarray, mask_NH: np.ndarray) -> np.ndarray:
    shifted = np.where(mask_NH, logits_NH, -np.inf)
    raised = np.exp(shifted - np.max(shifted, axis=0))
    return raised / np.sum(raised, axis=0)


def _masked_z(values_NH: np.ndarray, mask_NH: np.ndarray, scale_H: np.ndarray) -> np.ndarray:
    """z-scores over each column's elite; zeros where the spread is rounding, as `standardize`."""
    count_H = np.sum(mask_NH, axis=0)
    mean_H = np.sum(np.where(mask_NH, values_NH, 0.0), axis=0) / count_H
    off_NH = np.where(mask_NH, values_NH - mean_H, 0.0)
    std_H = np.sqrt(np.sum(off_NH**2, axis=0) / count_H)
    return np.divide(off_NH, std_H, out=np.zeros_like(off_NH), where=std_H > ROUNDING * scale_H)


class Products:
    """Inner products of N directions, all that their consolidation depends on.

    Directions that share no seed are orthogonal: a diagonal, else a matrix (N, N).
    """

    def __init__(self, sparse: SparseRows):
        self._matrix_NN: np.ndarray | None = None
        if len(sparse.seeds) == len(sparse.amplitudes):
            self.squared_N = np.bincount(sparse.rows, sparse.amplitudes**2, sparse.count)
        else:
            rows_NS = sparse.dense()
            self._matrix_NN = rows_NS @ rows_NS.T
            self.squared_N = np.diag(self._matrix_NN).copy()

    def times(self, weights_NH: np.ndarray) -> np.ndarray:
        """(N, H): inner products of every direction with the sums that the columns weigh."""
        if self._matrix_NN is None:
            return self.squared_N[:, None] * weights_NH
        return self._matrix_NN @ weights_NH


@dataclass(frozen=True)
class ConsolidationPoint:
    """Settings of one consolidation, as in `consolidate.consolidate`."""

    quantile: float
    inverse_temperature: float
    compatibility: float = 1.0


def pass2_weights(products: Products, means_NH: np.ndarray, at: ConsolidationPoint) -> np.ndarray:
    """Weights (N, H) of two-pass consolidation, one per column of rewards; 0 off the elite.

    The same numbers as `consolidate.consolidate` gives, for many reward vectors at once.
    """
    elite_NH = means_NH >= np.quantile(means_NH, at.quantile, axis=0)
    logits_NH = at.inverse_temperature * means_NH
    pass1_NH = _masked_softmax(logits_NH, elite_NH)
    along_NH = products.times(pass1_NH)
    size_H = np.sqrt(np.maximum(np.sum(pass1_NH * along_NH, axis=0), 0.0))
    along_NH = np.divide(along_NH, size_H, out=np.zeros_like(along_NH), where=size_H > 0)
    squared_N1 = products.squared_N[:, None]
    norms_N1 = np.sqrt(squared_N1)
    alignment_NH = np.divide(along_NH, norms_N1, out=np.zeros_like(along_NH), where=norms_N1 > 0)
    dispersion_NH = np.maximum(squared_N1 - along_NH**2, 0.0)
    largest_H = np.max(np.where(elite_NH, squared_N1, 0.0), axis=0)
    compatible_NH = _masked_z(alignment_NH, elite_NH, np.ones_like(largest_H))
    compatible_NH -= _masked_z(dispersion_NH, elite_NH, largest_H)
    return _masked_softmax(logits_NH + at.compatibility * compatible_NH, elite_NH)


def direction_cosine(
    products: Products, first_NH: np.ndarray, second_NH: np.ndarray, at: ConsolidationPoint
) -> float:
    """Mean cosine between the consolidated directions of the two halves; 0 where one has norm 0."""
    v_NH, w_NH = pass2_weights(products, first_NH, at), pass2_weights(products, second_NH, at)
    xv_NH, xw_NH = products.times(v_NH), products.times(w_NH)
    size_H = np.sqrt(np.maximum(np.sum(v_NH * xv_NH, axis=0) * np.sum(w_NH * xw_NH, axis=0), 0.0))
    dot_H = np.sum(w_NH * xv_NH, axis=0)
    return float(np.mean(np.divide(dot_H, size_H, out=np.zeros_like(dot_H), where=size_H > 0)))


def _leading(part_NE: np.ndarray, most: int) -> np.ndarray:
    """The leading left singular vectors (N, `most`); zero columns where the rank is used up."""
    tall = part_NE.shape[0] > part_NE.shape[1]
    values, vectors = np.linalg.eigh(part_NE.T @ part_NE if tall else part_NE @ part_NE.T)
    values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
    present = values > 1e-10 * max(float(values[0]), 1e-300)
    if tall:
        vectors = part_NE @ (vectors / np.sqrt(np.where(present, values, 1.0)))
    found_NR = np.zeros((part_NE.shape[0], most))
    found_NR[:, : len(values)] = np.where(present, vectors, 0.0)
    return found_NR


def subspace_overlap(rewards_NE: np.ndarray, halves_HE: np.ndarray, most: int) -> np.ndarray:
    """(most,) mean squared cosine of the principal angles between the halves' leading subspaces.

    Entry R - 1 is that of the R leading left singular vectors of the rewards centered per example.
    1 for equal subspaces; two random ones of N - 1 dimensions have R / (N - 1).
    """
    centered_NE = rewards_NE - np.mean(rewards_NE, axis=0)
    total_R = np.zeros(most)
    for half_E in halves_HE:
        first = _leading(centered_NE[:, half_E], most)
        second = _leading(centered_NE[:, ~half_E], most)
        squared_RR = np.cumsum(np.cumsum((first.T @ second) ** 2, axis=0), axis=1)
        total_R += np.diag(squared_RR) / np.arange(1, most + 1)
    return total_R / len(halves_HE)


def overlap_halvings(candidates: int, examples: int, halvings: int) -> int:
    """How many of the halvings the overlap uses, so that a table takes bounded time."""
    size = min(candidates, -(-examples // 2))
    return min(halvings, max(_FEWEST_HALVINGS, _EIGEN_SIZES // size))


def split_half(
    rewards_NE: np.ndarray,
    products: Products,
    at: ConsolidationPoint,
    *,
    halvings: int,
    permutations: int,
    most_rank: int,
    rng: np.random.Generator,
) -> SplitHalf:
    """All three statistics of rewards (N, E) with their nulls; N and E at least 4.

    Every permuted table is halved at the same places as the rewards themselves.
    """
    candidates, examples = rewards_NE.shape
    halves_HE = draw_halves(examples, halvings, rng)
    few = halves_HE[: overlap_halvings(candidates, examples, halvings)]
    ranks = max(1, min(most_rank, candidates - 2, examples // 2))

    def statistics(table_NE: np.ndarray) -> np.ndarray:
        first_NH, second_NH = half_means(table_NE, halves_HE)
        return np.array(
            [
                reliability(first_NH, second_NH),
                direction_cosine(products, first_NH, second_NH, at),
                *subspace_overlap(table_NE, few, ranks),
            ]
        )

    results = _beside_null(statistics, rewards_NE, permutations, rng)
    return SplitHalf(results[0], results[1], tuple(results[2:]), len(few))


def _beside_null(
    statistics: Callable[[np.ndarray], np.ndarray],
    rewards_NE: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> list[Tested]:
    values_S = statistics(rewards_NE)
    null_PS = np.array([statistics(permuted(rewards_NE, rng)) for _ in range(permutations)])
    return [tested(value, null_P) for value, null_P in zip(values_S, null_PS.T, strict=True)]
