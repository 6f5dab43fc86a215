"""The search state after a round: scale, isotropic share, subspace, and when to stop.

Pure functions on a frozen state; see docs/method.md, "Recentering".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from corp_ray.consolidate import merge_positive
from corp_ray.direction import Direction
from corp_ray.population import Subspace

FIRST_ESS, LAST_ESS = 16.0, 4.0
GROW, SHRINK, SMALLEST_SIGMA = 1.25, 0.5, 1e-8


@dataclass(frozen=True)
class SearchState:
    """What the next round samples from, and the counts that end a run.

    `sigma` is None until round 0 has chosen it; `isotropic_share` is L.
    """

    round: int = 0
    sigma: float | None = None
    isotropic_share: float = 0.5
    subspace: Subspace | None = None
    commits: int = 0
    rejections: int = 0


def constructive_score(
    center_rewards: Sequence[float] | np.ndarray,
    rewards: Sequence[float] | np.ndarray,
    regression_weight: float,
) -> float:
    """(sum of gains - lambda * sum of losses) / E against the center, per example."""
    delta = np.asarray(rewards, float) - np.asarray(center_rewards, float)
    gains, losses = np.sum(delta[delta > 0]), -np.sum(delta[delta < 0])
    return float((gains - regression_weight * losses) / delta.size)


def constructive_scores(
    center_rewards_E: np.ndarray, rewards_NE: np.ndarray, regression_weight: float
) -> np.ndarray:
    """(N,) the constructive score of each row of rewards."""
    center_E = np.asarray(center_rewards_E, float)
    return np.array([constructive_score(center_E, row, regression_weight) for row in rewards_NE])


def best_sigma(sigmas: Sequence[float], drawn: Sequence[float], rewards: Sequence[float]) -> float:
    """The scale whose candidates have the best mean of the top half of rewards; ties: first listed.

    Errors: ValueError when there are not as many rewards as drawn scales.
    """
    drawn_N, rewards_N = np.asarray(drawn, float), np.asarray(rewards, float)
    if drawn_N.shape != rewards_N.shape:
        raise ValueError(f"{drawn_N.size} drawn scales need as many rewards, got {rewards_N.size}")
    best, best_mean = sigmas[0], -np.inf
    for sigma in sigmas:
        own = -np.sort(-rewards_N[drawn_N == sigma])
        top = own[: -(-len(own) // 2)]
        if len(top) and np.mean(top) > best_mean:
            best, best_mean = sigma, float(np.mean(top))
    return best


def target_ess(round_number: int, rounds: int) -> float:
    """Falls geometrically from 16 at round 0 to 4 at the last round."""
    done = round_number / rounds if rounds else 0.0
    return float(FIRST_ESS * (LAST_ESS / FIRST_ESS) ** done)


def next_isotropic_share(share: float, positive_fraction: float) -> float:
    wanted = float(np.clip(0.15 + 0.8 * (1 - positive_fraction), 0.15, 0.95))
    return float(np.clip(share / 2 + wanted / 2, 0.05, 0.95))


def advance(
    state: SearchState,
    *,
    directions: Sequence[Direction],
    rewards: Sequence[float],
    scores: Sequence[float],
    drawn_sigmas: Sequence[float],
    listed_sigmas: Sequence[float],
    accepted: bool,
    rounds: int,
    rank: int,
) -> SearchState:
    """The state after a round whose candidates had these rewards and constructive scores.

    Round 0 chooses sigma from the list and leaves L alone; later rounds grow sigma (capped at the
    largest listed) when accepted, else shrink it, and move L towards what the share of helpful
    candidates asks for. The subspace is replaced by the positive-score merge; without a positive
    score the former one stays.
    """
    merged = merge_positive(
        directions, scores, target_ess=target_ess(state.round, rounds), rank=rank
    )
    subspace = state.subspace
    if merged is not None:
        axes = merged.cloud.axes
        subspace = Subspace(axes, tuple(float(e) for e in merged.eigenvalues[: len(axes)]))
    if state.sigma is None:
        sigma, share = best_sigma(listed_sigmas, drawn_sigmas, rewards), state.isotropic_share
    else:
        grown = min(state.sigma * GROW, max(listed_sigmas))
        sigma = grown if accepted else max(state.sigma * SHRINK, SMALLEST_SIGMA)
        fraction = float(np.mean(np.asarray(scores) > 0))
        share = next_isotropic_share(state.isotropic_share, fraction)
    return replace(
        state,
        round=state.round + 1,
        sigma=sigma,
        isotropic_share=share,
        subspace=subspace,
        commits=state.commits + accepted,
        rejections=0 if accepted else state.rejections + 1,
    )


def stop_reason(state: SearchState, *, rounds: int, max_commits: int, patience: int) -> str | None:
    """Why no further round runs, or None: commits reached, patience spent, or rounds done."""
    if state.commits >= max_commits:
        return "commit_limit"
    if state.rejections >= patience:
        return "patience"
    if state.round > rounds:
        return "rounds_done"
    return None
