"""Fold a rewarded population into one direction: two-pass consolidation and positive-score merge.

Pure numpy, no state. Everything depends on directions only through their seed coordinates, so
scaling every amplitude by one factor scales the result and changes no weight. See docs/method.md,
"Consolidation" and "Positive-score merge" (CoRP, arXiv 2605.31494).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from corp_ray.cloud import (
    ROUNDING,
    CloudStatistics,
    cloud_statistics,
    effective_sample_size,
    members_of,
)
from corp_ray.direction import Direction


@dataclass(frozen=True)
class Consolidation:
    """Result of `consolidate`; arrays run over the elite members in index order."""

    elite: np.ndarray
    threshold: float
    pass1_weights: np.ndarray
    alignment: np.ndarray
    dispersion: np.ndarray
    pass2_weights: np.ndarray
    cloud: CloudStatistics

    @property
    def mean(self) -> Direction:
        return self.cloud.mean

    @property
    def norm(self) -> float:
        return self.cloud.norm

    @property
    def trace(self) -> float:
        return self.cloud.trace

    @property
    def effective_rank(self) -> float:
        return self.cloud.effective_rank

    @property
    def eigenvalues(self) -> np.ndarray:
        return self.cloud.eigenvalues

    @property
    def ess(self) -> float:
        return self.cloud.ess

    @property
    def kappa(self) -> float:
        return self.cloud.kappa


@dataclass(frozen=True)
class PositiveMerge:
    """Result of `merge_positive`: members with a positive score, their weights, their cloud."""

    positive: np.ndarray
    weights: np.ndarray
    temperature: float
    cloud: CloudStatistics

    @property
    def mean(self) -> Direction:
        return self.cloud.mean

    @property
    def norm(self) -> float:
        return self.cloud.norm

    @property
    def trace(self) -> float:
        return self.cloud.trace

    @property
    def effective_rank(self) -> float:
        return self.cloud.effective_rank

    @property
    def eigenvalues(self) -> np.ndarray:
        return self.cloud.eigenvalues

    @property
    def ess(self) -> float:
        return self.cloud.ess


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - np.max(logits))
    return shifted / np.sum(shifted)


def standardize(values: np.ndarray, scale: float) -> np.ndarray:
    """(v - mean) / population std; zeros where the std is rounding error of numbers of size `scale`."""
    mean, std = np.mean(values), np.std(values)
    if std <= ROUNDING * scale:
        return np.zeros_like(values)
    return (values - mean) / std


def _checked(directions: Iterable, values: Sequence[float], what: str):
    listed = [d if isinstance(d, Direction) else Direction(d) for d in directions]
    numbers = np.asarray(values, np.float64)
    if not listed or numbers.shape != (len(listed),):
        raise ValueError(f"{len(listed)} directions need as many {what}, got {numbers.shape}")
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"{what} must be finite")
    return listed, numbers


# BLAS adds up in another order with another number of threads: a result must not depend on it.
_one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


@_one_thread
def consolidate(
    directions: Iterable[Direction],
    rewards: Sequence[float],
    *,
    quantile: float,
    inverse_temperature: float,
    rank: int,
    compatibility: float = 1.0,
) -> Consolidation:
    """Two-pass consolidation of N directions with N rewards into one mean direction.

    Pass 1 weighs the elite by softmax(beta * reward) and forms the direction p; pass 2 adds
    compatibility * (z(alignment with p) - z(dispersion off p)) to the logits. compatibility 1 is
    the paper, 0 the ablation. Errors: ValueError for lengths or a quantile outside [0, 1].
    """
    listed, rewards_N = _checked(directions, rewards, "rewards")
    if not 0.0 <= quantile <= 1.0:
        raise ValueError(f"quantile {quantile} is outside [0, 1]")
    threshold = float(np.quantile(rewards_N, quantile))
    elite = np.flatnonzero(rewards_N >= threshold)
    rewards_E = rewards_N[elite]
    members = members_of(listed[i] for i in elite)

    pass1 = softmax(inverse_temperature * rewards_E)
    p_S = members.combine(pass1)
    p_norm = float(np.linalg.norm(p_S))
    unit_S = p_S / p_norm if p_norm > 0 else p_S
    squared_E = members.squared_M
    norms_E = np.sqrt(squared_E)
    along_E = members.along(unit_S)
    alignment = np.divide(along_E, norms_E, out=np.zeros_like(along_E), where=norms_E > 0)
    dispersion = np.maximum(squared_E - along_E**2, 0.0)

    compatible = standardize(alignment, 1.0) - standardize(dispersion, float(np.max(squared_E)))
    pass2 = softmax(inverse_temperature * rewards_E + compatibility * compatible)
    return Consolidation(
        elite=elite,
        threshold=threshold,
        pass1_weights=pass1,
        alignment=alignment,
        dispersion=dispersion,
        pass2_weights=pass2,
        cloud=cloud_statistics(members, pass2, rank),
    )


def _tempered(scores: np.ndarray, target_ess: float) -> tuple[np.ndarray, float]:
    """Softmax weights at the temperature whose effective sample size is the target."""
    low, high = 1e-12, 1.0
    while effective_sample_size(softmax(scores / high)) < target_ess and high < 1e6:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if effective_sample_size(softmax(scores / middle)) >= target_ess:
            high = middle
        else:
            low = middle
    return softmax(scores / high), high


@_one_thread
def merge_positive(
    directions: Iterable[Direction], scores: Sequence[float], *, target_ess: float, rank: int
) -> PositiveMerge | None:
    """Merge the directions with a positive score at a target effective sample size.

    Returns None when no score is positive. Uniform weights (temperature infinite) for one member,
    equal scores, or a target of all members. Errors: ValueError for lengths or non-finite scores.
    """
    listed, scores_N = _checked(directions, scores, "scores")
    positive = np.flatnonzero(scores_N > 0)
    members = len(positive)
    if members == 0:
        return None
    scores_P = scores_N[positive]
    target = min(max(target_ess, 1.0), float(members))
    if members == 1 or np.all(scores_P == scores_P[0]) or target >= members - 1e-6:
        weights, temperature = np.full(members, 1.0 / members), math.inf
    else:
        weights, temperature = _tempered(scores_P, target)
    return PositiveMerge(
        positive=positive,
        weights=weights,
        temperature=temperature,
        cloud=cloud_statistics(members_of(listed[i] for i in positive), weights, rank),
    )
