"""How many components are found: what was planted, and none where there is nothing."""

import numpy as np
import pytest

from corp_ray.components import ALPHA, MOST, count_components
from corp_ray.split_half import permuted
from tests.rewards import by_distance, of_difficulty, planted


def counts(tables, permutations=99, seed=0):
    rng = np.random.default_rng(seed)
    return [count_components(t, permutations=permutations, rng=rng) for t in tables]


@pytest.mark.parametrize(("rank", "strength"), [(1, 0.4), (2, 0.5), (4, 0.5)])
def test_a_planted_rank_is_found_exactly_in_most_tables(rank, strength):
    rng = np.random.default_rng(rank)
    found = counts([planted(rank, 70, 140, rng, strength=strength) for _ in range(12)])
    # One too many in 5 % of tables; 4 of 12 or more would happen once in 450.
    assert all(one.significant >= rank for one in found)
    for one in found:  # the first that is not significant is the last
        assert [test.p_value <= ALPHA for test in one.tests] == [True] * one.significant + [False]
    assert sum(one.significant > rank for one in found) <= 3
    assert sum(one.low_rank for one in found) >= 9


def test_nothing_is_found_where_only_difficulty_differs_beyond_the_stated_rate():
    rng = np.random.default_rng(8)
    found = counts([of_difficulty(40, 64, rng) for _ in range(100)])
    # 5 % of 100; 11 or more would happen once in 90.
    assert sum(one.significant > 0 for one in found) <= 10


def test_nothing_is_found_in_shuffled_rewards_beyond_the_stated_rate():
    rng = np.random.default_rng(9)
    table_NE = planted(2, 40, 64, rng, strength=0.5)
    assert counts([table_NE])[0].significant == 2
    found = counts([permuted(table_NE, rng) for _ in range(60)])
    assert sum(one.significant > 0 for one in found) <= 7  # 8 or more: once in 90
    assert all(
        "shuffled" in one.statement for one in found if not one.significant and not one.diffuse
    )


def test_uneven_noise_of_candidates_is_not_taken_for_more_components():
    rng = np.random.default_rng(10)
    found = counts([by_distance(60, 120, rng) for _ in range(25)])
    assert all(one.significant >= 1 for one in found)
    assert sum(one.significant > 1 for one in found) <= 5  # 6 or more: once in 800


def test_a_reward_of_full_rank_is_not_called_low_rank():
    rng = np.random.default_rng(12)
    found = counts([planted(40, 80, 160, rng, strength=0.6) for _ in range(6)])
    assert any(1 <= one.significant < MOST for one in found)  # what stands out is not all there is
    assert sum(one.low_rank for one in found) <= 1
    assert all("not called low rank" in one.statement for one in found if not one.low_rank)


def test_more_components_than_are_looked_for_are_not_called_low_rank():
    rng = np.random.default_rng(13)
    ability_NK, load_KE = rng.standard_normal((60, 12)), rng.standard_normal((12, 90))
    (found,) = counts([ability_NK @ load_KE + 0.3 * rng.standard_normal((60, 90))])
    assert (found.significant, len(found.tests)) == (MOST, MOST)
    assert not found.low_rank and found.statement.startswith(f"at least {MOST} components")


def test_testing_stops_at_the_first_component_that_is_not_significant():
    (found,) = counts([planted(2, 60, 120, np.random.default_rng(1), strength=0.5)])
    assert [test.p_value <= ALPHA for test in found.tests] == [True, True, False]
    assert found.significant == 2 and len(found.shares) == 3


def test_tests_equal_a_literal_reimplementation():
    table_NE = planted(1, 12, 15, np.random.default_rng(4), strength=0.5)
    found = count_components(table_NE, permutations=19, rng=np.random.default_rng(6))
    rng = np.random.default_rng(6)
    centered = table_NE - table_NE.mean(axis=0)
    left, singular, right = np.linalg.svd(centered, full_matrices=False)
    for k, test in enumerate(found.tests):
        keep_left = np.eye(12) - sum(np.outer(left[:, j], left[:, j]) for j in range(k))
        keep_right = np.eye(15) - sum(np.outer(right[j], right[j]) for j in range(k))
        rest = keep_left @ centered @ keep_right
        null = []
        for _ in range(19):
            if k == 0:
                drawn = rng.permuted(table_NE, axis=0)
            else:
                drawn = rest * np.where(rng.integers(0, 2, rest.shape) == 1, 1.0, -1.0)
            drawn = keep_left @ (drawn - drawn.mean(axis=0)) @ keep_right
            squares = np.linalg.svd(drawn)[1] ** 2
            null.append(squares[0] / squares.sum())
        value = singular[k] ** 2 / (singular[k:] ** 2).sum()
        assert test.value == pytest.approx(value, rel=1e-9)
        assert test.null_p95 == pytest.approx(np.quantile(null, 0.95), rel=1e-9)
        assert test.p_value == (1 + sum(np.array(null) >= value)) / 20
    assert len(found.tests) >= 2


def test_components_that_explain_everything_leave_no_remainder():
    rng = np.random.default_rng(14)
    (found,) = counts([np.outer(rng.standard_normal(20), rng.standard_normal(30))])
    assert found.significant == 1 and found.remainder is None and found.low_rank


def test_rewards_without_a_difference_are_refused():
    with pytest.raises(ValueError, match="do not differ"):
        count_components(np.full((5, 6), 0.1), permutations=19, rng=np.random.default_rng(0))
