"""The validation gate: a paired test that lets an update pass only when its gain is reliable.

One-sided, on per-example rewards of the center and the candidate on held-out examples. Each look
spends part of one run-wide error budget. See docs/method.md, "The gate".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from corp_ray.records import Verdict

_SMALLEST_ALPHA = 1e-300  # a float above 0, for a look that no run will come to
EXACT_BELOW = 20  # non-zero differences under which the normal approximation is not trusted


def look_alpha(alpha: float, look: int) -> float:
    """What look number `look` (from 1) may spend: 80 % of alpha, then 15 % of that each time.

    The levels of all looks, however many a run and its extensions take, add up to 94 % of alpha;
    the rest stays in hand against the normal approximation. The first look, at the first and
    usually largest update, gets most of it.
    """
    if look < 1:
        raise ValueError(f"looks count from 1, got {look}")
    return max(alpha * 0.8 * 0.15 ** (look - 1), _SMALLEST_ALPHA)


def sign_flip_p_value(differences: np.ndarray) -> float:
    """Exact P(sum of randomly signed differences >= the observed sum), zeros left out.

    With 0/1 rewards this is the exact one-sided McNemar test. 2^n sums: n < 20 here.
    """
    nonzero = differences[differences != 0]
    if nonzero.size == 0:
        return 1.0
    sums = np.zeros(1)
    for value in np.abs(nonzero):
        sums = np.concatenate([sums - value, sums + value])
    tolerance = 1e-9 * float(np.sum(np.abs(nonzero)))
    return float(np.mean(sums >= np.sum(nonzero) - tolerance))


def _upper_tail(z: float) -> float:
    """P(standard normal > z), accurate far out, where 1 - cdf is 0."""
    return math.erfc(z / math.sqrt(2)) / 2


def paired_test(
    center_rewards: Sequence[float],
    candidate_rewards: Sequence[float],
    *,
    alpha: float,
    min_gain: float = 0.0,
) -> Verdict:
    """Judge the candidate's mean gain over the center on the same E examples at level `alpha`.

    Accepts when the mean is positive and the lower bound mean - z * se (se with ddof 1) exceeds
    `min_gain`. With fewer than 20 non-zero differences the exact sign-flip p-value must be at
    most alpha instead (and the lower bound still clear a positive min_gain). Errors: ValueError
    for unequal or fewer than 2 rewards, or alpha outside (0, 1).
    """
    center, candidate = np.asarray(center_rewards, float), np.asarray(candidate_rewards, float)
    if center.shape != candidate.shape or center.ndim != 1 or center.size < 2:
        raise ValueError(f"paired rewards of shapes {center.shape} and {candidate.shape}")
    if not (np.all(np.isfinite(center)) and np.all(np.isfinite(candidate))):
        raise ValueError("rewards must be finite")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha {alpha} is outside (0, 1)")
    delta = candidate - center
    mean = float(np.mean(delta))
    error = float(np.std(delta, ddof=1)) / math.sqrt(delta.size)
    lower = mean + NormalDist().inv_cdf(alpha) * error
    nonzero = int(np.count_nonzero(delta))
    exact = nonzero < EXACT_BELOW
    if exact:
        p_value = sign_flip_p_value(delta)
        clears_margin = min_gain <= 0 or lower > min_gain
        accepted = mean > 0 and p_value <= alpha and clears_margin
        reason = "gain" if accepted else "not_reliable"
    else:
        p_value = _upper_tail(mean / error) if error > 0 else float(mean <= 0)
        accepted = mean > 0 and lower > min_gain
        reason = "gain" if accepted else "not_reliable"
    if mean <= 0:
        reason = "no_gain_on_gate"
    return Verdict(
        accepted=accepted,
        reason=reason,
        mean=mean,
        standard_error=error,
        lower=lower,
        p_value=p_value,
        test="sign_flip" if exact else "normal",
        fixes=int(np.count_nonzero(delta > 0)),
        regressions=int(np.count_nonzero(delta < 0)),
        examples=int(delta.size),
        alpha=alpha,
    )


def judge(
    center_rewards: Sequence[float],
    candidate_rewards: Sequence[float],
    *,
    alpha: float,
    min_gain: float,
    look: int,
) -> Verdict:
    """`paired_test` as look number `look` of a run whose whole budget is `alpha`."""
    verdict = paired_test(
        center_rewards, candidate_rewards, alpha=look_alpha(alpha, look), min_gain=min_gain
    )
    return replace(verdict, look=look)


def paired_interval(
    center_rewards: Sequence[float], candidate_rewards: Sequence[float], *, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean difference, low, high) on the same examples: two-sided normal interval, for reports."""
    delta = np.asarray(candidate_rewards, float) - np.asarray(center_rewards, float)
    mean = float(np.mean(delta))
    half = (
        NormalDist().inv_cdf(0.5 + level / 2) * float(np.std(delta, ddof=1)) / math.sqrt(delta.size)
    )
    return mean, mean - half, mean + half
