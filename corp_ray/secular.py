"""Eigenvalues of diag(d) - m m^T with m_i = sqrt(v_i d_i) and weights v that sum to one.

That is the covariance of a weighted cloud whose members are orthogonal, member i of squared norm
d_i / v_i. It is singular, and its other eigenvalues are the roots of sum v_i / (d_i - x), one
between any two neighbouring poles d_i. Equal poles act as one and leave their value as eigenvalue.
The iteration is the rational one of LAPACK's dlaed4 (Li, "Solving secular equations stably and
efficiently", 1993). See docs/method.md, "Cloud statistics".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Chebyshev

BLOCK = 256  # roots solved together
CELLS = 1 << 19  # differences of roots and poles held at a time
DEGREE = 24  # of the interpolants; poles stay REACH half-widths away: error below 5^-24
REACH = 3.0
_EPS = float(np.finfo(np.float64).eps)
_ROUNDS = 200


@dataclass(frozen=True)
class Roots:
    """One root per gap of G ascending poles: poles[origin] + offset, origin the nearer end.

    Kept apart, offset keeps its digits however close to its pole a root lies.
    """

    poles_G: np.ndarray
    origin: np.ndarray
    offset: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return self.poles_G[self.origin] + self.offset

    def minus_root(self, k: int, values: np.ndarray) -> np.ndarray:
        """values - root k, without cancellation for values that are poles."""
        return (values - self.poles_G[self.origin[k]]) - self.offset[k]


def roots(poles_G: np.ndarray, weights_G: np.ndarray) -> Roots:
    """The G - 1 roots of sum weights / (poles - x); poles ascending and distinct, weights above 0.

    Each root is exact to rounding. Neighbouring roots share the sum over far poles, a smooth
    function there and interpolated by Chebyshev polynomials, so the cost is about G^1.5 (a second
    for 50,000 poles, a minute if every root summed every pole) and memory is linear in G.
    """
    gaps = len(poles_G) - 1
    origin, offset = np.zeros(max(gaps, 0), np.intp), np.zeros(max(gaps, 0))
    for start, stop, near in _blocks(poles_G):
        origin[start:stop], offset[start:stop] = _solve(poles_G, weights_G, start, stop, near)
    return Roots(poles_G, origin, offset)


def _blocks(poles_G: np.ndarray) -> Iterator[tuple[int, int, slice]]:
    """Ranges of gaps with the poles near them, cut until a block is no larger than CELLS."""
    gaps = len(poles_G) - 1
    waiting = [(low, min(low + BLOCK, gaps)) for low in range(0, gaps, BLOCK)]
    while waiting:
        start, stop = waiting.pop()
        low, high = poles_G[start], poles_G[stop]
        reach = (REACH - 1) * (high - low) / 2
        first = min(int(np.searchsorted(poles_G, low - reach, "left")), start)
        last = max(int(np.searchsorted(poles_G, high + reach, "right")), stop + 1)
        if stop - start > 1 and (stop - start) * (last - first) > CELLS:
            middle = (start + stop) // 2
            waiting += [(start, middle), (middle, stop)]
        else:
            yield start, stop, slice(first, last)


def _far_sum(
    poles_G: np.ndarray, weights_G: np.ndarray, start: int, stop: int, near: slice
) -> Chebyshev | None:
    """The sum over all poles but the near ones, as a polynomial over the block."""
    poles = np.concatenate([poles_G[: near.start], poles_G[near.stop :]])
    if not poles.size:
        return None
    weights = np.concatenate([weights_G[: near.start], weights_G[near.stop :]])

    def far(x):
        return np.array([np.sum(weights / (poles - point)) for point in x])

    return Chebyshev.interpolate(far, DEGREE, domain=(poles_G[start], poles_G[stop]))


def _solve(
    poles_G: np.ndarray, weights_G: np.ndarray, start: int, stop: int, near: slice
) -> tuple[np.ndarray, np.ndarray]:
    """(origin, offset) of the roots in gaps start..stop."""
    far = _far_sum(poles_G, weights_G, start, stop, near)
    far_slope = far.deriv() if far is not None else None
    poles, weights = poles_G[near], weights_G[near]

    def sums(origin: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and slope at poles_G[origin] + offset; the value grows with the offset."""
        apart = (poles - poles_G[origin][:, None]) - offset[:, None]
        terms = weights / apart
        value, slope = np.sum(terms, axis=1), np.sum(terms / apart, axis=1)
        if far is not None and far_slope is not None:
            x = poles_G[origin] + offset
            value, slope = value + far(x), slope + far_slope(x)
        return value, slope

    left = np.arange(start, stop)
    gap = poles_G[left + 1] - poles_G[left]
    in_left_half = sums(left, gap / 2)[0] >= 0
    origin = np.where(in_left_half, left, left + 1)
    low, high = np.where(in_left_half, 0.0, -gap / 2), np.where(in_left_half, gap / 2, 0.0)
    offset = (low + high) / 2
    ends = poles_G[left] - poles_G[origin], poles_G[left + 1] - poles_G[origin]
    active = np.arange(stop - start)
    for _ in range(_ROUNDS):
        x = offset[active]
        value, slope = sums(origin[active], x)
        low[active] = np.where(value < 0, x, low[active])
        high[active] = np.where(value > 0, x, high[active])
        to_left, to_right = ends[0][active] - x, ends[1][active] - x
        w_left, w_right = weights_G[left[active]], weights_G[left[active] + 1]
        moved = x + _step(value, slope, to_left, to_right, w_left, w_right)
        inside = (low[active] < moved) & (moved < high[active])
        moved = np.where(inside, moved, (low[active] + high[active]) / 2)
        moved = np.where(value == 0, x, moved)
        offset[active] = moved
        active = active[np.abs(moved - x) > 2 * _EPS * np.abs(moved)]
        if not active.size:
            return origin, offset
    raise ArithmeticError(f"secular equation: {active.size} roots unsolved in {_ROUNDS} rounds")


def _step(
    value: np.ndarray,
    slope: np.ndarray,
    to_left: np.ndarray,
    to_right: np.ndarray,
    w_left: np.ndarray,
    w_right: np.ndarray,
) -> np.ndarray:
    """From x to the root of c + s / (left - x) + S / (right - x), which has value and slope here.

    The slope of everything but the two neighbouring poles is shared out between s and S.
    """
    with np.errstate(all="ignore"):  # what overflows leaves the bracket and is bisected
        rest = np.maximum(slope - w_left / to_left**2 - w_right / to_right**2, 0.0) / 2
        s, S = w_left + rest * to_left**2, w_right + rest * to_right**2
        c = value - s / to_left - S / to_right
        a = c * (to_left + to_right) + s + S
        b = to_left * to_right * value
        root = np.sqrt(np.maximum(a * a - 4 * b * c, 0.0))
        return np.where(a > 0, 2 * b / (a + root), (a - root) / (2 * c))
