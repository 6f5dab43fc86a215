"""Reward tables of known structure, (candidates x examples), 0 or 1."""

from __future__ import annotations

import numpy as np


def planted(
    rank: int,
    candidates: int,
    examples: int,
    rng: np.random.Generator,
    *,
    strength: float = 0.45,
    one_sign: bool = False,
) -> np.ndarray:
    """Probability 1/2 + strength * sum over `rank` of ability x load, cut to [0, 1].

    `one_sign`: loads of one sign, so that an ability shows in mean rewards. Rank 0 is chance alone.
    """
    ability_NK = rng.uniform(-1, 1, (candidates, rank))
    sign_KE = 1.0 if one_sign else rng.choice([-1.0, 1.0], (rank, examples))
    load_KE = sign_KE * rng.uniform(0.5, 1.0, (rank, examples))
    right_NE = 0.5 + strength * ability_NK @ load_KE / np.sqrt(max(rank, 1))
    return (rng.random((candidates, examples)) < right_NE).astype(np.float64)


def of_difficulty(candidates: int, examples: int, rng: np.random.Generator) -> np.ndarray:
    """Examples of very different difficulty, candidates of none: nothing to be found."""
    return (rng.random((candidates, examples)) < rng.beta(0.5, 1.0, examples)).astype(np.float64)


def by_distance(candidates: int, examples: int, rng: np.random.Generator) -> np.ndarray:
    """Rank 1, unevenly noisy: the farther from a center a candidate is, the less of the center's
    answers it keeps, and the more chance its other ones hold."""
    kept_E = (rng.random(examples) < 0.4).astype(np.float64)
    far_N1 = rng.choice([0.02, 0.15, 0.5], (candidates, 1))
    right_NE = kept_E * (1 - far_N1) + far_N1 * rng.uniform(0, 0.3, examples)
    return (rng.random((candidates, examples)) < right_NE).astype(np.float64)
