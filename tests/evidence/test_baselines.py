"""The baselines of a comparison: votes counted by hand, properties of votes, directions by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray.baselines import elite_average, evolution_direction, majority_vote, ranking
from corp_ray.consolidate import consolidate
from corp_ray.direction import Direction


def vote(answers, rewards, graded=None):
    graded = graded or [[True] * len(own) for own in answers]
    return majority_vote(answers, rewards, graded)


def test_the_ranking_is_by_mean_and_ties_go_to_the_lower_index():
    assert ranking([0.2, 0.5, 0.5, 0.1, 0.7, 0.5]) == [4, 1, 2, 5, 0, 3]


def test_the_answer_of_most_voters_wins_with_its_reward():
    found = vote(
        [["7", "a", None], ["8", "b", None], ["8", "b", "x"]],
        [[1.0, 0.25, 0.0], [0.0, 0.75, 0.0], [0.0, 0.75, 0.5]],
    )
    assert found.answers == ("8", "b", "x")
    assert found.rewards == (0.0, 0.75, 0.5)
    assert (found.ties, found.invalid, found.unanswered, found.split_rewards) == (0, 2, 0, 0)


def test_a_tie_goes_to_the_answer_whose_best_voter_ranks_highest_and_is_counted():
    answers = [["a"], ["b"], ["b"], ["a"], ["c"]]
    found = vote(answers, [[1.0], [0.0], [0.0], [1.0], [0.5]])
    assert (found.answers, found.rewards, found.ties) == (("a",), (1.0,), 1)
    found = vote(answers[1:], [[0.0], [0.0], [1.0], [0.5]])
    assert (found.answers, found.ties) == (("b",), 0)
    found = vote([["c"], ["b"], ["a"]], [[0.5], [0.0], [1.0]])
    assert (found.answers, found.rewards, found.ties) == (("c",), (0.5,), 1)


def test_answers_that_are_none_do_not_vote_and_an_item_without_a_vote_earns_nothing():
    found = vote([[None, None], [None, None], [None, "a"]], [[0.9, 0.9], [0.9, 0.9], [0.9, 0.3]])
    assert found.answers == (None, "a")
    assert found.rewards == (0.0, 0.3)
    assert (found.invalid, found.unanswered, found.ties) == (5, 1, 0)


def test_a_failed_grading_votes_and_its_reward_is_that_of_the_next_voter_of_the_answer():
    answers, rewards = [["a"], ["a"], ["b"]], [[0.0], [1.0], [0.0]]
    assert vote(answers, rewards, [[False], [True], [True]]).rewards == (1.0,)
    assert vote(answers, rewards, [[False], [False], [True]]).rewards == (0.0,)


def test_voters_of_one_answer_with_other_rewards_are_counted_and_the_best_voters_counts():
    found = vote([["a"], ["a"], ["b"]], [[0.25], [1.0], [0.0]])
    assert (found.rewards, found.split_rewards) == ((0.25,), 1)


def test_a_vote_without_voters_or_with_missing_items_is_an_error():
    for answers, rewards in (([], []), ([["a"]], [[1.0, 0.0]]), ([["a"], []], [[1.0], [0.0]])):
        with pytest.raises(ValueError, match="vote"):
            vote(answers, rewards)


ANSWERS = st.sampled_from(["a", "b", "c", None])
TABLES = st.tuples(st.integers(1, 9), st.integers(1, 6)).flatmap(
    lambda shape: st.lists(
        st.lists(ANSWERS, min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)
WORTH = {"a": 1.0, "b": 0.5, "c": 0.0, None: 0.0}


def worth(answers):
    return [[WORTH[answer] for answer in own] for own in answers]


@given(TABLES)
def test_one_voter_is_itself(answers):
    assert list(vote(answers[:1], worth(answers[:1])).rewards) == worth(answers)[0]


@given(TABLES, st.integers(1, 5))
def test_a_unanimous_vote_is_its_voters(answers, copies):
    found = vote([answers[0]] * copies, worth([answers[0]] * copies))
    assert (list(found.answers), found.ties) == (answers[0], 0)
    assert list(found.rewards) == worth(answers)[0]


@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_voters_decides_ties_alone(answers, random):
    first = vote(answers, worth(answers))
    shuffled = random.sample(answers, len(answers))
    second = vote(shuffled, worth(shuffled))
    assert (first.ties, first.invalid, first.unanswered) == (
        second.ties,
        second.invalid,
        second.unanswered,
    )
    if not first.ties:
        assert first == second


@given(TABLES)
def test_the_winner_has_at_least_as_many_votes_as_any_answer(answers):
    found = vote(answers, worth(answers))
    for item, winner in enumerate(found.answers):
        given_answers = [own[item] for own in answers if own[item] is not None]
        counts = {answer: given_answers.count(answer) for answer in given_answers}
        assert counts.get(winner, 0) == max(counts.values(), default=0)


def test_the_elite_average_weighs_the_elite_alike_ties_included():
    directions = [Direction({i: 0.01 * i}) for i in range(1, 5)]
    found = elite_average(directions, [0.1, 0.4, 0.3, 0.3], 0.5)  # threshold 0.3
    expected = {2: 0.02 / 3, 3: 0.03 / 3, 4: 0.04 / 3}
    assert dict(found.terms) == pytest.approx(expected, rel=1e-15)
    every = elite_average(directions, [0.1, 0.4, 0.3, 0.3], 0.0)
    assert dict(every.terms) == pytest.approx({i: 0.01 * i / 4 for i in range(1, 5)}, rel=1e-15)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(deadline=None)
def test_the_elite_average_is_the_operator_without_temperature_and_compatibility(counts, quantile):
    directions = [Direction({i: 1e-3 * (1 + i % 3)}) for i in range(len(counts))]
    rewards = np.array(counts) / 20
    expected = consolidate(
        directions, rewards, quantile=quantile, inverse_temperature=0.0, rank=1, compatibility=0.0
    ).mean
    found = elite_average(directions, rewards, quantile)
    assert dict(found.terms) == pytest.approx(dict(expected.terms), rel=1e-12)


def test_the_direction_of_evolution_strategies_by_hand():
    directions = [Direction({1: 0.01}), Direction({2: 0.02}), Direction({3: 0.01, 1: 0.5})]
    z = math.sqrt(1.5)  # rewards 0, 0.5, 1: mean 0.5, population standard deviation sqrt(1/6)
    g = {1: (-0.01 + 0.5) * z / 3, 3: 0.01 * z / 3}
    norm = math.hypot(*g.values())
    found = evolution_direction(directions, [0.0, 0.5, 1.0], norm)
    assert dict(found.terms) == pytest.approx(g, rel=1e-12)
    assert evolution_direction(directions, [0.0, 0.5, 1.0], 0.02).norm == pytest.approx(0.02)


@given(st.floats(-1, 1), st.floats(0.01, 100))
def test_evolution_strategies_do_not_see_a_shift_or_scale_of_rewards(shift, scale):
    directions = [Direction({i: 0.01}) for i in range(4)]
    rewards = np.array([0.1, 0.5, 0.2, 0.9])  # none at the mean, where rounding has the sign
    found = evolution_direction(directions, scale * rewards + shift, 0.01)
    expected = dict(evolution_direction(directions, rewards, 0.01).terms)
    assert dict(found.terms) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1.0])
def test_equal_rewards_give_evolution_strategies_no_direction(reward):
    directions = [Direction({i: 0.01}) for i in range(7)]
    assert evolution_direction(directions, [reward] * 7, 0.01) == Direction()
