"""The gate: the paired test by hand and by brute force, its error over whole simulated runs, and
its power when a gain is real."""

import itertools
import math
import pickle
from statistics import NormalDist

import numpy as np
import pytest

from corp_ray.gate import judge, look_alpha, paired_interval, paired_test, sign_flip_p_value

ITEMS = 256


def pairs(fixes, regressions, same=100):
    """0/1 rewards of a center and a candidate with so many differences."""
    center = [0.0] * fixes + [1.0] * regressions + [0.0, 1.0] * (same // 2)
    candidate = [1.0] * fixes + [0.0] * regressions + [0.0, 1.0] * (same // 2)
    return center, candidate


def binomial_tail(successes, count):
    return sum(math.comb(count, k) for k in range(successes, count + 1)) / 2**count


@pytest.mark.parametrize("same", [2, 100, 2000])
@pytest.mark.parametrize("alpha", [0.05, 0.049, 0.025, 0.001])
def test_one_fix_and_no_regression_never_passes(alpha, same):
    verdict = paired_test(*pairs(1, 0, same), alpha=alpha)
    assert not verdict.accepted and verdict.reason == "not_reliable"
    assert (verdict.fixes, verdict.regressions) == (1, 0)


def test_small_counts_use_the_exact_binomial_tail_of_mcnemar():
    for fixes, regressions in itertools.product(range(20), range(20)):
        count = fixes + regressions
        if not 0 < count < 20:
            continue
        verdict = paired_test(*pairs(fixes, regressions), alpha=0.05)
        expected = binomial_tail(fixes, count)
        assert verdict.test == "sign_flip"
        assert verdict.p_value == pytest.approx(expected, rel=1e-12)
        assert verdict.accepted == (fixes > regressions and expected <= 0.05)


def test_sign_flip_of_partial_credit_counts_every_assignment_of_signs():
    rng = np.random.default_rng(3)
    for count in range(1, 11):
        delta = rng.integers(-4, 5, count) / 4
        nonzero = delta[delta != 0]
        sums = [
            sum(s * abs(d) for s, d in zip(signs, nonzero, strict=True))
            for signs in itertools.product((-1, 1), repeat=nonzero.size)
        ]
        expected = np.mean(np.array(sums) >= nonzero.sum() - 1e-9)
        assert sign_flip_p_value(delta) == pytest.approx(float(expected))
    assert sign_flip_p_value(np.zeros(5)) == 1.0


def test_many_differences_use_the_lower_bound_of_the_mean():
    center, candidate = pairs(40, 15, 200)
    delta = np.array(candidate) - np.array(center)
    error = np.std(delta, ddof=1) / math.sqrt(delta.size)
    for alpha in (0.05, 0.01, 1e-4):
        verdict = paired_test(center, candidate, alpha=alpha)
        assert verdict.test == "normal" and verdict.examples == 255 and verdict.alpha == alpha
        assert verdict.mean == pytest.approx(25 / 255)
        assert verdict.standard_error == pytest.approx(error)
        lower = 25 / 255 - NormalDist().inv_cdf(1 - alpha) * error
        assert verdict.lower == pytest.approx(lower)
        assert verdict.accepted == (lower > 0) == (verdict.p_value < alpha)
        assert (verdict.fixes, verdict.regressions) == (40, 15)
    assert paired_test(center, candidate, alpha=0.01).accepted
    assert not paired_test(center, candidate, alpha=1e-4).accepted


@pytest.mark.parametrize("many", [5, 50])
def test_no_gain_is_rejected(many):
    for fixes, regressions in ((many, many), (0, many), (0, 0), (many, many + 1)):
        verdict = paired_test(*pairs(fixes, regressions), alpha=0.5)
        assert not verdict.accepted and verdict.reason == "no_gain_on_gate"


@pytest.mark.parametrize(("fixes", "regressions"), [(12, 0), (60, 5)])
def test_a_minimum_gain_must_be_cleared_by_the_lower_bound(fixes, regressions):
    rewards = pairs(fixes, regressions, 200)
    plain = paired_test(*rewards, alpha=0.05)
    assert plain.accepted and plain.lower > 0
    assert paired_test(*rewards, alpha=0.05, min_gain=plain.lower * 0.9).accepted
    assert not paired_test(*rewards, alpha=0.05, min_gain=plain.lower * 1.1).accepted


def test_every_item_improved_by_the_same_amount_passes():
    verdict = paired_test([0.25] * 64, [0.5] * 64, alpha=0.01)
    assert verdict.accepted and verdict.lower == pytest.approx(0.25) and verdict.p_value == 0.0


@pytest.mark.parametrize(
    ("center", "candidate"),
    [([0, 1, 0], [0, 1]), ([1], [0]), ([], []), ([[0, 1]], [[1, 1]]), ([0, math.nan], [1, 1])],
)
def test_rewards_that_do_not_pair_are_an_error(center, candidate):
    with pytest.raises(ValueError, match="rewards"):
        paired_test(center, candidate, alpha=0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_a_level_outside_zero_and_one_is_an_error(alpha):
    with pytest.raises(ValueError, match="alpha"):
        paired_test(*pairs(3, 1), alpha=alpha)


def test_ten_thousand_looks_never_spend_more_than_the_budget():
    shares = [look_alpha(0.05, look) for look in range(1, 10_001)]
    assert math.fsum(shares) < 0.95 * 0.05
    assert all(a > b > 0 for a, b in itertools.pairwise(shares[:300]))
    assert min(shares) > 0
    assert shares[0] == pytest.approx(0.04)
    with pytest.raises(ValueError, match="looks"):
        look_alpha(0.05, 0)


def test_judge_is_the_paired_test_at_the_level_of_its_look():
    center, candidate = pairs(20, 5)
    for look in (1, 2, 7):
        verdict = judge(center, candidate, alpha=0.05, min_gain=0.0, look=look)
        alone = paired_test(center, candidate, alpha=look_alpha(0.05, look))
        assert verdict.look == look and verdict.alpha == look_alpha(0.05, look)
        assert (verdict.accepted, verdict.lower) == (alone.accepted, alone.lower)
    assert pickle.loads(pickle.dumps(verdict)) == verdict


def test_interval_is_symmetric_around_the_mean_difference():
    center, candidate = pairs(30, 10, 60)
    mean, low, high = paired_interval(center, candidate)
    delta = np.array(candidate) - np.array(center)
    half = 1.959964 * np.std(delta, ddof=1) / 10
    assert (mean, low, high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def runs_that_commit(propose, *, runs=1000, looks=4, seed=1):
    """Share of runs in which some look passes; propose(rng, center) gives a candidate's rewards."""
    rng = np.random.default_rng(seed)
    committed = 0
    for _ in range(runs):
        center = (rng.random(ITEMS) < 0.3).astype(float)
        committed += any(
            judge(center, propose(rng, center), alpha=0.05, min_gain=0.0, look=look).accepted
            for look in range(1, looks + 1)
        )
    return committed / runs


def best_of_63_on_validation(rng):
    """Index of the best of 63 proposals on 100 validation items without information."""
    return int(np.argmax(rng.binomial(100, 0.3, 63)))


def test_runs_without_information_commit_at_most_at_the_rate_of_alpha():
    """1,000 runs of four looks, each at the winner of 63 on validation; all rewards independent."""

    def unrelated(rng, center):
        gate_rewards = rng.random((63, ITEMS)) < 0.3
        return gate_rewards[best_of_63_on_validation(rng)].astype(float)

    share = runs_that_commit(unrelated)
    assert 0 < share <= 0.05


@pytest.mark.parametrize("changed", [4, 12, 24])
def test_runs_of_small_random_changes_commit_at_most_at_the_rate_of_alpha(changed):
    """Candidates that differ from the center on a few items, each up or down by a fair coin."""

    def nearly_the_center(rng, center):
        candidate = center.copy()
        fixes = rng.binomial(changed, 0.5)
        candidate[rng.choice(np.flatnonzero(center == 0), fixes, replace=False)] = 1
        candidate[rng.choice(np.flatnonzero(center == 1), changed - fixes, replace=False)] = 0
        return candidate

    assert runs_that_commit(nearly_the_center) <= 0.05


@pytest.mark.parametrize(("shared_noise", "at_least"), [(0.0, 0.78), (0.3, 0.86), (0.6, 0.94)])
def test_a_true_gain_of_ten_points_passes_the_first_look(shared_noise, at_least):
    """Center 20 %, candidate 30 %, 256 items, level 0.04. An item is solved when its noise
    u ~ U(0, 1) is below the model's rate; on a share of items both models meet the same u.
    Shared noise 0.3 is a correlation of 0.23 between the two models' rewards. Of 4,000 runs
    81 %, 89 % and 97 % passed; the bounds leave three standard errors of 1,000 runs.
    """
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(1000):
        u_center, own = rng.random(ITEMS), rng.random(ITEMS)
        u_candidate = np.where(rng.random(ITEMS) < shared_noise, u_center, own)
        verdict = judge(u_center < 0.2, u_candidate < 0.3, alpha=0.05, min_gain=0.0, look=1)
        passed += verdict.accepted
    assert passed / 1000 >= at_least


def test_a_p_value_far_out_is_small_and_not_zero():
    verdict = paired_test([0] * 400, [1] * 150 + [0] * 250, alpha=0.05)
    assert 0 < verdict.p_value < 1e-40


def test_a_late_look_with_almost_no_budget_is_still_a_test():
    verdict = judge([0] * 400, [1] * 150 + [0] * 250, alpha=0.05, min_gain=0.0, look=200)
    assert not verdict.accepted
    assert 0 < verdict.alpha < 1e-100
    assert verdict.lower < 0
