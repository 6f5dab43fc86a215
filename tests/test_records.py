"""Records and errors cross processes: each one pickles and comes back equal, with what it computes."""

import inspect
import math
import pickle
import struct
from dataclasses import FrozenInstanceError, fields, is_dataclass

import numpy as np
import pytest

from corp_ray import errors, files, records
from corp_ray.consolidate import consolidate, merge_positive
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.errors import CorpError
from corp_ray.population import Subspace
from corp_ray.proposals import Decision
from corp_ray.recenter import SearchState
from corp_ray.recipe import Recipe, Step
from corp_ray.records import (
    Candidate,
    Center,
    Commit,
    EngineCounts,
    Evaluation,
    Example,
    Failure,
    Generation,
    Grade,
    Proposal,
    Ready,
    Verdict,
    Work,
    direction_digest,
)
from corp_ray.reward_rows import Identity
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import Split

TERMS = ((3, 0.1), (2**63 - 1, -5e-324))
CENTER = Center("/models/base", "abc")
CANDIDATE = Candidate("r0c1", "candidate", 0, TERMS, step=0.5, sigma=2e-3)
WORK = Work(CENTER, "support", (CANDIDATE, Candidate("r0center", "center", 0)))
VERDICT = Verdict(True, "gain", 0.1, 0.01, 0.08, 1e-3, "normal", 30, 2, 256, 0.0375, look=1)
PROPOSAL = Proposal(0.5, 10.0, 2.0, CANDIDATE, 0.25)
EXAMPLE = Example("7", "2+2?", "4", {"metadata": [1, None]})
RECORDS = [
    EXAMPLE,
    Grade(0.5, records.WRONG_FORMAT),
    Generation("4", 2),
    CENTER,
    CANDIDATE,
    WORK,
    Evaluation(CANDIDATE, "abc", "gate", (0.1, 1.0), ("graded",) * 2, 9, 0.5, "fake"),
    Failure(3, "its engine died", 3),
    Ready("abc", "fake bfloat16", ("a warning",)),
    PROPOSAL,
    VERDICT,
    Commit(1, 0, "runs/a/commits/1", "def", TERMS),
    EngineCounts(3, 1, 2, 30.0, 40.0, 1),
]
OTHERS = [
    Direction(TERMS),
    Subspace((Direction(TERMS),), (0.5,)),
    SearchState(2, 1e-3, 0.4, Subspace((Direction(TERMS),), (0.5,)), 1, 1),
    Decision(PROPOSAL, "gain", VERDICT),
    Recipe("base", "abc", "bfloat16", ("w",), "task", (Step(Direction(TERMS), 0, {"mean": 0.1}),)),
    Identity({"support": "s"}, "d", "t", "fake"),
    Split("gate", (EXAMPLE,), "s"),
    TaskSettings({"kind": "rows"}, {"gate": 2}, 0, "rows exact 1", {"gate": "0" * 64}),
    EngineSettings("fake", "bfloat16", "cpu", 1, "auto", 8, 8, (".*",), (), {"a": [1]}),
]
ERRORS = [
    kind
    for module in (errors, files)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, CorpError)
]


def sent(value):
    """The value as another process would receive it."""
    return pickle.loads(pickle.dumps(value))


def test_the_list_of_records_is_complete():
    listed = {type(record) for record in RECORDS}
    assert listed == {
        kind
        for _, kind in inspect.getmembers(records, inspect.isclass)
        if is_dataclass(kind) and kind.__module__ == records.__name__
    }


@pytest.mark.parametrize("value", RECORDS + OTHERS, ids=lambda value: type(value).__name__)
def test_what_crosses_a_process_pickles_and_comes_back_equal(value):
    back = sent(value)
    assert type(back) is type(value)
    assert back == value
    assert back is not value


@pytest.mark.parametrize("value", RECORDS, ids=lambda value: type(value).__name__)
def test_records_are_frozen(value):
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "other")


@pytest.mark.parametrize("kind", sorted(set(ERRORS), key=lambda kind: kind.__name__))
def test_every_error_pickles_with_its_message_and_exit_code(kind):
    back = sent(kind("splits.gate=1: expected at least 2"))
    assert type(back) is kind
    assert str(back) == "splits.gate=1: expected at least 2"
    assert back.exit_code == kind.exit_code in (1, 2, 143)


def test_input_that_a_user_can_mend_exits_with_2_a_failure_with_1_and_a_stop_with_143():
    assert {kind.__name__: kind.exit_code for kind in set(ERRORS)} == {
        "CorpError": 1,
        "ConfigError": 2,
        "TaskError": 2,
        "EngineError": 1,
        "EngineLostError": 1,
        "EngineUnfitError": 1,
        "StoppedError": 143,
        "LeaseError": 1,
        "RewardTableError": 2,
        "CheckpointError": 2,
        "DiskFullError": 1,
        "StorageError": 1,
    }


@pytest.mark.parametrize("merge", [False, True])
def test_the_reducers_results_pickle(merge):
    directions = [Direction({i: 1e-3, 99: i * 1e-4}) for i in range(6)]
    scores = [0.1, 0.5, 0.2, 0.4, 0.3, 0.6]
    if merge:
        result = merge_positive(directions, scores, target_ess=3, rank=2)
    else:
        result = consolidate(directions, scores, quantile=0.5, inverse_temperature=5, rank=2)
    back = sent(result)
    assert back.mean == result.mean
    assert back.cloud.axes == result.cloud.axes
    names = {f.name for kind in (result, result.cloud) for f in fields(kind)} - {"cloud"}
    for name in names & set(dir(result)):
        np.testing.assert_array_equal(getattr(back, name), getattr(result, name))


def test_a_direction_is_immutable_and_stays_so_across_a_process():
    back = sent(Direction(TERMS))
    assert hash(back) == hash(Direction(TERMS))
    with pytest.raises(AttributeError):
        back.terms = ()


def test_a_candidates_digest_is_that_of_its_scaled_terms():
    assert CANDIDATE.scaled == tuple((seed, amplitude * 0.5) for seed, amplitude in TERMS)
    assert CANDIDATE.digest == direction_digest(CANDIDATE.scaled) == sent(CANDIDATE).digest
    assert CANDIDATE.digest != direction_digest(TERMS)
    assert Candidate("other", "candidate", 3, CANDIDATE.scaled).digest == CANDIDATE.digest
    assert PROPOSAL.exact.terms == CANDIDATE.scaled
    assert PROPOSAL.exact.step == 1.0
    assert PROPOSAL.exact.kind == "candidate"


def test_a_direction_digest_sees_the_last_bit_of_seed_and_amplitude():
    a = 0.1
    variants = [
        ((1, a),),
        ((2, a),),
        ((1, math.nextafter(a, 1)),),
        ((1, -a),),
        (),
        ((1, a), (2, a)),
    ]
    digests = {direction_digest(terms) for terms in variants}
    assert len(digests) == len(variants)
    assert all(len(digest) == 32 for digest in digests)
    with pytest.raises(struct.error):
        direction_digest(((-1, a),))


def test_an_evaluations_mean_is_the_plain_mean():
    rewards = (0.25, 0.5, 1.0, 0.0)
    made = Evaluation(CANDIDATE, "abc", "gate", rewards, ("graded",) * 4, 9, 0.5, "fake")
    assert made.mean == 0.4375


@pytest.mark.parametrize(
    ("busy_s", "ready_s", "share"),
    [(30.0, 40.0, 0.25), (0.0, 0.0, 0.0), (41.0, 40.0, 0.0), (0.0, 40.0, 1.0), (-1.0, 40.0, 1.0)],
)
def test_the_idle_share_of_engines_lies_between_none_and_all(busy_s, ready_s, share):
    assert EngineCounts(1, 0, 0, busy_s, ready_s, 0).idle_share == share
