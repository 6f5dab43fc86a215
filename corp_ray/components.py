"""How many shared components a (candidates x examples) reward table has, tested one by one.

Sequential parallel analysis (after Buja and Eyuboglu 1992; deflated as by Vitale et al. 2017, the
later nulls by random signs as by Hong, Sheng and Dobriban 2020). Pure numpy, no state. See
docs/method.md, "Split-half analysis", for what is counted, and with what error rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corp_ray.split_half import Tested, permuted, tested

ALPHA = 0.05
MOST = 8  # components looked for
_NOTHING_LEFT = 1e-20  # share of squares that is rounding


@dataclass(frozen=True)
class Components:
    """Result of `count_components`.

    `tests[k]` compares component k + 1's share of the squares that the k before it leave with its
    null; the last is the first one that is not significant, or number `MOST`. `significant` counts
    those before it. `remainder` tests what they leave as a whole, None when nothing is left.
    `shares[k]` is component k + 1's share of all squares of the centered table.
    """

    tests: tuple[Tested, ...]
    significant: int
    remainder: Tested | None
    shares: tuple[float, ...]

    @property
    def diffuse(self) -> bool:
        """Whether structure is left beyond the components counted."""
        return self.remainder is not None and self.remainder.p_value <= ALPHA

    @property
    def low_rank(self) -> bool:
        """From 1 to MOST - 1 components, and no structure found beyond them."""
        return 1 <= self.significant < MOST and not self.diffuse

    @property
    def statement(self) -> str:
        if self.significant == 0 and self.diffuse:
            return "no component stands out, yet there is structure: not called low rank"
        if self.significant == 0:
            return "no shared structure: the rewards look as if shuffled over candidates"
        if self.significant >= MOST:
            return f"at least {MOST} components: not called low rank"
        noun = "component" if self.significant == 1 else "components"
        if self.diffuse:
            return (
                f"{self.significant} {noun} found, and structure that spreads beyond them: "
                "not called low rank"
            )
        return f"low rank: {self.significant} {noun}, and none found beyond"


def concentration(table_NE: np.ndarray) -> tuple[float, float]:
    """The largest squared singular value, and the sum of their squares, relative to their sum.

    The second is the sum of squared inner products between all pairs of examples, so it sees
    structure that many weak components share.
    """
    wide = table_NE.shape[0] <= table_NE.shape[1]
    gram = table_NE @ table_NE.T if wide else table_NE.T @ table_NE
    total = float(np.trace(gram))
    return float(np.linalg.eigvalsh(gram)[-1]) / total, float(np.sum(gram * gram)) / total**2


def _flipped(rest_NE: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every entry with a random sign: no structure left, every row and column as uneven as it was."""
    return rest_NE * (2.0 * rng.integers(0, 2, rest_NE.shape) - 1.0)


def _without(table_NE: np.ndarray, u_NK: np.ndarray, v_KE: np.ndarray) -> np.ndarray:
    """Centered per example and orthogonal to K components on both sides."""
    centered_NE = table_NE - np.mean(table_NE, axis=0)
    left_NE = centered_NE - u_NK @ (u_NK.T @ centered_NE)
    return left_NE - (left_NE @ v_KE.T) @ v_KE


def differ(rewards_NE: np.ndarray) -> bool:
    """Whether rewards differ between candidates by more than rounding does."""
    centered_NE = rewards_NE - np.mean(rewards_NE, axis=0)
    floor = _NOTHING_LEFT * max(float(np.sum(rewards_NE**2)), 1e-300)
    return float(np.sum(centered_NE**2)) > floor


def count_components(
    rewards_NE: np.ndarray, *, permutations: int, rng: np.random.Generator
) -> Components:
    """Test components one after the other, and stop at the first that is not above its null.

    Component 1's null permutes every example's rewards over candidates: exact. Later ones have
    random signs on what the components before leave, with as many dimensions taken from it: after
    one component candidates differ in how uneven their rewards are, and a permutation would take
    that for structure. So at most a share ALPHA of tables with r components are given more.
    Errors: ValueError for rewards that do not differ between candidates.
    """
    if not differ(rewards_NE):
        raise ValueError("rewards do not differ between candidates")
    centered_NE = rewards_NE - np.mean(rewards_NE, axis=0)
    total = float(np.sum(centered_NE**2))
    u_NK, singular, v_KE = np.linalg.svd(centered_NE, full_matrices=False)
    tests: list[Tested] = []
    remainder = None
    for k in range(MOST):
        u, v = u_NK[:, :k], v_KE[:k]
        rest_NE = _without(rewards_NE, u, v)
        if float(np.sum(rest_NE**2)) <= _NOTHING_LEFT * total:
            remainder = None
            break
        null_P2 = np.array(
            [
                concentration(
                    _without(_flipped(rest_NE, rng) if k else permuted(rewards_NE, rng), u, v)
                )
                for _ in range(permutations)
            ]
        )
        largest, spread = concentration(rest_NE)
        tests.append(tested(largest, null_P2[:, 0]))
        remainder = tested(spread, null_P2[:, 1])
        if tests[-1].p_value > ALPHA:
            break
    significant = sum(test.p_value <= ALPHA for test in tests)
    shares = singular[: len(tests)] ** 2 / total
    if significant == MOST:
        remainder = None  # it was that of one component fewer
    return Components(tuple(tests), significant, remainder, tuple(map(float, shares)))
