"""The search state after a round: scores against the center, scale, isotropic share, subspace,
target sample size, and the reasons to stop."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corp_ray.consolidate import merge_positive
from corp_ray.direction import Direction
from corp_ray.population import Subspace
from corp_ray.recenter import (
    SearchState,
    advance,
    best_sigma,
    constructive_score,
    constructive_scores,
    next_isotropic_share,
    stop_reason,
    target_ess,
)

SIGMAS = (5e-4, 1e-3, 2e-3)
DIRECTIONS = [Direction({i: 1e-3, 100 + i // 2: 5e-4}) for i in range(8)]
SCORES = [0.3, 0.1, -0.2, 0.0, 0.25, 0.05, -0.1, 0.2]
FORMER = Subspace((Direction({7: 1.0}),), (2.0,))


def after(state, *, accepted=True, scores=SCORES, rounds=3, rank=2, rewards=None, sigmas=None):
    return advance(
        state,
        directions=DIRECTIONS,
        rewards=rewards or [0.5] * 8,
        scores=scores,
        drawn_sigmas=sigmas or [1e-3] * 8,
        listed_sigmas=SIGMAS,
        accepted=accepted,
        rounds=rounds,
        rank=rank,
    )


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=50),
    st.sampled_from([0.0, 1.0, 2.0, 3.5]),
)
def test_score_of_right_and_wrong_is_fixes_minus_lambda_regressions(outcomes, weight):
    center, candidate = zip(*outcomes, strict=True)
    fixes = sum(b > a for a, b in outcomes)
    regressions = sum(b < a for a, b in outcomes)
    found = constructive_score(center, candidate, weight)
    assert found == pytest.approx((fixes - weight * regressions) / len(outcomes))


def test_score_of_partial_credit_weighs_sums_of_gains_and_losses():
    assert constructive_score([0.5, 0.5, 0.5], [0.75, 0.25, 0.5], 2.0) == pytest.approx(-0.25 / 3)
    assert constructive_score([0.2, 0.4], [0.2, 0.4], 2.0) == 0.0


def test_the_best_scale_has_the_best_mean_of_its_top_half():
    drawn = [5e-4] * 4 + [1e-3] * 4 + [2e-3] * 3
    rewards = [0.6, 0.6, 0.6, 0.6, 0.9, 0.7, 0.0, 0.0, 0.8, 0.75, 0.9]
    # Tops: (0.6 + 0.6)/2, (0.9 + 0.7)/2 = 0.8, and of three the upper two: (0.9 + 0.8)/2 = 0.85
    assert best_sigma(SIGMAS, drawn, rewards) == 2e-3
    assert best_sigma(SIGMAS, drawn[:8], rewards[:8]) == 1e-3
    assert best_sigma(SIGMAS, drawn, [*rewards[:8], 0.9, 0.6, 0.1]) == 1e-3  # (0.9 + 0.6)/2


def test_equally_good_scales_go_to_the_first_listed():
    drawn, rewards = [1e-3, 5e-4, 2e-3], [0.7, 0.7, 0.7]
    assert best_sigma(SIGMAS, drawn, rewards) == 5e-4
    assert best_sigma(SIGMAS[::-1], drawn, rewards) == 2e-3


def test_a_scale_that_nobody_drew_is_never_chosen():
    assert best_sigma(SIGMAS, [2e-3, 2e-3], [0.0, 0.0]) == 2e-3


def test_target_sample_size_falls_geometrically_from_16_to_4():
    for rounds in (1, 3, 7):
        sizes = [target_ess(t, rounds) for t in range(rounds + 1)]
        assert sizes[0] == 16 and sizes[-1] == pytest.approx(4)
        np.testing.assert_allclose(np.diff(np.log(sizes)), -math.log(4) / rounds)
    assert target_ess(0, 0) == 16


def test_round_zero_chooses_the_scale_and_leaves_the_isotropic_share():
    sigmas = [5e-4, 5e-4, 1e-3, 1e-3, 2e-3, 2e-3, 2e-3, 2e-3]
    rewards = [0.1, 0.2, 0.9, 0.1, 0.3, 0.3, 0.3, 0.3]
    for accepted in (True, False):
        state = after(SearchState(), accepted=accepted, rewards=rewards, sigmas=sigmas)
        assert (state.round, state.sigma, state.isotropic_share) == (1, 1e-3, 0.5)


def test_an_accepted_round_grows_the_scale_up_to_the_largest_listed():
    state = SearchState(round=1, sigma=1e-3)
    seen = []
    for _ in range(5):
        state = after(state)
        seen.append(state.sigma)
    assert seen == pytest.approx([1.25e-3, 1.5625e-3, 1.953125e-3, 2e-3, 2e-3])


def test_a_rejected_round_halves_the_scale_down_to_its_floor():
    state = after(SearchState(round=1, sigma=1e-3), accepted=False)
    assert state.sigma == 5e-4
    assert after(SearchState(round=1, sigma=1.5e-8), accepted=False).sigma == 1e-8


@pytest.mark.parametrize(
    ("share", "fraction", "expected"),
    [
        (0.5, 1.0, 0.25 + 0.15 / 2),  # 0.15 + 0.8 * 0
        (0.5, 0.0, 0.25 + 0.95 / 2),
        (0.5, 0.5, 0.25 + 0.55 / 2),
        (0.95, 0.0, 0.95),
        (0.0, 1.0, 0.075),
        (-0.2, 1.0, 0.05),
        (1.0, 0.0, 0.95),
    ],
)
def test_isotropic_share_moves_half_way_to_what_the_helpful_share_asks_for(
    share, fraction, expected
):
    assert next_isotropic_share(share, fraction) == pytest.approx(expected)


def test_helpful_share_counts_positive_scores_only():
    state = after(SearchState(round=1, sigma=1e-3, isotropic_share=0.4))
    assert state.isotropic_share == pytest.approx(next_isotropic_share(0.4, 5 / 8))


@pytest.mark.parametrize(("round_number", "target"), [(0, 16.0), (1, 16 * 4 ** (-1 / 3)), (3, 4.0)])
def test_subspace_is_replaced_by_the_positive_merge_at_the_rounds_target(round_number, target):
    state = after(SearchState(round=round_number, sigma=1e-3, subspace=FORMER))
    merged = merge_positive(DIRECTIONS, SCORES, target_ess=target, rank=2)
    assert state.subspace.axes == merged.cloud.axes and len(state.subspace.axes) == 2
    assert state.subspace.eigenvalues == pytest.approx(merged.eigenvalues[:2].tolist())


def test_subspace_stays_when_no_score_is_positive():
    state = after(SearchState(round=1, sigma=1e-3, subspace=FORMER), scores=[0.0, -0.1] * 4)
    assert state.subspace == FORMER
    assert after(SearchState(), scores=[-0.1] * 8).subspace is None


def test_commits_add_up_and_rejections_count_only_in_a_row():
    state = SearchState()
    for accepted, expected in ((False, (0, 1)), (True, (1, 0)), (False, (1, 1)), (False, (1, 2))):
        state = after(state, accepted=accepted)
        assert (state.commits, state.rejections) == expected
    assert state.round == 4


def test_a_run_stops_at_its_commit_limit_its_patience_or_its_last_round():
    limits = {"rounds": 3, "max_commits": 3, "patience": 2}
    assert stop_reason(SearchState(), **limits) is None
    assert stop_reason(SearchState(round=3, commits=2, rejections=1), **limits) is None
    assert stop_reason(SearchState(round=3, commits=3), **limits) == "commit_limit"
    assert stop_reason(SearchState(round=2, commits=1, rejections=2), **limits) == "patience"
    assert stop_reason(SearchState(round=4, commits=1), **limits) == "rounds_done"
    assert stop_reason(SearchState(round=1), rounds=0, max_commits=3, patience=2) == "rounds_done"


def test_advance_is_pure_and_its_state_pickles():
    state = SearchState(round=1, sigma=1e-3, subspace=FORMER)
    before = pickle.dumps(state)
    first, second = after(state), after(state)
    assert first == second and pickle.dumps(state) == before
    assert pickle.loads(pickle.dumps(first)) == first


def test_scores_of_many_candidates_are_those_of_each():
    rng = np.random.default_rng(2)
    center, rewards = rng.random(30), rng.random((50, 30))
    found = constructive_scores(center, rewards, 1.5)
    assert found.tolist() == [constructive_score(center, row, 1.5) for row in rewards]


def test_the_best_scale_needs_a_reward_for_every_candidate():
    with pytest.raises(ValueError, match="3 drawn scales"):
        best_sigma(SIGMAS, [1e-3] * 3, [0.1] * 2)
