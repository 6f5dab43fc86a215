"""The time a run has left: sizes of the configuration times what evaluations took, never a guess."""

from __future__ import annotations

import pytest

from corp_ray import config as configuration
from corp_ray.remaining import Measured, phase_left_s, rounds_ended, run_left_s
from corp_ray.settings import Config

EACH = {"support": 10.0, "validation": 2.0, "gate": 5.0, "test": 8.0}


@pytest.fixture
def config():
    """Round 0: 20 + 1 on support, 2 x 1 x 3 + 1 on validation; then 2 rounds of 9 + 1."""
    content = Config()
    content.population.size = 20
    content.recentering.rounds, content.recentering.population = 2, 9
    content.recentering.max_commits, content.recentering.patience = 3, 2
    content.consolidation.quantiles = [0.5, 0.9]
    content.consolidation.inverse_temperatures = [1.0]
    content.consolidation.steps = [1.0, 2.0, 4.0]
    content.splits.support, content.splits.validation = 100, 20
    content.splits.gate, content.splits.test = 50, 80
    return configuration.to_dict(content)


def phase(name, total, done, *, before=0, rate=0.0, over=False):
    return {
        "name": name,
        "total": total,
        "done": done,
        "done_before": before,
        "rate_per_s": rate,
        "over": over,
    }


LATER = 2 * (10 * 10 + 7 * 2 + 2 * 5)  # two rounds of 10 on support, 7 on validation, 2 on gate
TEST = 3 * 8


def test_an_untouched_run_has_all_its_work_before_it(config):
    expected = 21 * 10 + 7 * 2 + 2 * 5 + LATER + TEST
    assert run_left_s(config, [], {}, None, Measured(EACH, 1)) == expected


def test_rows_of_the_round_at_work_are_done(config):
    rows = {(0, "support"): 21, (0, "validation"): 4}
    expected = 3 * 2 + 2 * 5 + LATER + TEST
    assert run_left_s(config, [], rows, None, Measured(EACH, 1)) == expected


def test_engines_share_the_work_and_a_few_evaluations_take_as_long_as_one(config):
    config["recentering"]["rounds"] = 0
    expected = 21 / 4 * 10 + 7 / 4 * 2 + 1 * 5 + 1 * 8
    assert run_left_s(config, [], {}, None, Measured(EACH, 4)) == expected


def test_the_phase_at_work_counts_by_its_rate_and_what_is_before_it_is_done(config):
    at_work = phase("round 0: validation sweep", 5, 3, rate=0.25)
    expected = 2 / 0.25 + 2 * 5 + LATER + TEST
    assert run_left_s(config, [], {}, at_work, Measured(EACH, 1)) == expected


def test_a_phase_without_a_result_yet_counts_by_the_seconds_of_its_split(config):
    at_work = phase("round 0: population", 21, 1, before=1)
    expected = 20 * 10 + 7 * 2 + 2 * 5 + LATER + TEST
    assert run_left_s(config, [], {}, at_work, Measured(EACH, 1)) == expected


def test_a_phase_of_the_round_before_takes_nothing_from_the_next(config):
    at_work = phase("round 0: gate", 2, 2, rate=1.0, over=True)
    assert run_left_s(config, [True], {}, at_work, Measured(EACH, 1)) == LATER + TEST


@pytest.mark.parametrize(
    "accepted", [[False, False], [True, True, True], [True, False, False], [False, True, False]]
)
def test_when_no_round_follows_only_the_test_is_left(config, accepted):
    assert rounds_ended(config, accepted)
    assert run_left_s(config, accepted, {}, None, Measured(EACH, 1)) == TEST
    assert run_left_s(config, accepted, {}, phase("test", 3, 1, rate=0.5), Measured(EACH, 1)) == 4


def test_an_unmeasured_split_takes_the_time_of_its_share_of_examples(config):
    config["recentering"]["rounds"] = 0
    expected = 21 * 10 + 7 * 2 + 2 * 5 + 3 * 8
    assert run_left_s(config, [], {}, None, Measured({"support": 10.0}, 1)) == expected


@pytest.mark.parametrize("measured", [Measured({}, 4), Measured(EACH, 0)])
def test_nothing_measured_is_no_estimate(config, measured):
    assert run_left_s(config, [], {}, None, measured) is None


def test_the_time_left_of_a_phase_is_its_rest_over_its_rate():
    assert phase_left_s(phase("x", 10, 4, rate=0.5)) == 12
    assert phase_left_s(phase("x", 10, 0)) is None
    assert phase_left_s(phase("x", 10, 10, rate=1.0)) == 0
    assert phase_left_s(phase("x", 10, 4, rate=1.0, over=True)) == 0
