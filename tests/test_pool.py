"""The pool with toy engines: what becomes of errors, and of engines unlike the others."""

from __future__ import annotations

import itertools
import time

import pytest
import ray
from ray.util.placement_group import placement_group_table

from corp_ray import fleet
from corp_ray.cluster import EnginePlan
from corp_ray.errors import CheckpointError, EngineError, StorageError, TaskError
from corp_ray.pool import Done, Pool
from corp_ray.records import Failure
from corp_ray.scheduler import SchedulePolicy
from corp_ray.stopping import StopRequest
from corp_ray.supervised import Supervised
from tests.toy_engine import Toy


@pytest.fixture
def pool(ray_address):
    """Makes a pool of toys with the given descriptions, one each."""
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    made = []

    def make(*descriptions, engines=0, policy=None, ranks=1):
        """The last description is that of all further engines when `engines` are asked for."""
        rest = itertools.repeat(descriptions[-1])
        names = itertools.chain(descriptions, rest) if engines else itertools.cycle(descriptions)
        toy = ray.remote(Toy)
        one = Pool(
            lambda options: toy.options(**options).remote(next(names)),
            EnginePlan(engines or len(descriptions), ranks, 0, ranks),
            warm=lambda actor: actor.ready.remote(),
            name="toys",
            policy=policy or SchedulePolicy(),
            stop=StopRequest(1.0),
        )
        made.append(one)
        one.open()
        return one

    yield make
    for one in made:
        one.close()
    ray.shutdown()


def outcomes(pool, count, failing):
    batches = pool.map_unordered(
        lambda actor, index: actor.score.remote(index, failing), [1] * count
    )
    return list(itertools.chain.from_iterable(batches))


def test_every_piece_has_its_result_and_one_that_raises_is_given_up_after_three_tries(pool):
    found = outcomes(pool("toy", "toy"), 20, {7: ZeroDivisionError("by zero")})
    (failure,) = [f for f in found if isinstance(f, Failure)]
    assert (failure.index, failure.attempts) == (7, 3)
    assert "by zero" in failure.reason
    results = {done.index: done.result for done in found if isinstance(done, Done)}
    assert results == {index: index**2 for index in range(20) if index != 7}


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), StorageError("bucket is away")])
def test_an_engine_that_fails_at_everything_is_replaced_and_no_piece_pays(pool, tmp_path, error):
    toys = pool("toy", "toy")
    found = itertools.chain.from_iterable(
        toys.map_unordered(
            lambda actor, index: actor.sick.remote(index, str(tmp_path / "mark"), error), [1] * 30
        )
    )
    results = {one.index: one.result for one in found if isinstance(one, Done)}
    assert results == {index: index**2 for index in range(30)}
    assert toys.restarts == 1


def test_a_place_where_no_engine_comes_up_does_not_end_the_work_of_others(pool, monkeypatch):
    """More often than a run without any engine would bear it: three times for each that is wanted."""
    monkeypatch.setattr(fleet, "_REST_S", 0.01)
    monkeypatch.setattr(fleet, "_LONGEST_REST_S", 0.1)
    toys = pool("toy", "broken", engines=2)
    deadline = time.monotonic() + 120
    while toys.restarts < 7:
        assert time.monotonic() < deadline
        toys.wait()
    assert toys.ready == 1
    assert len([d for d in outcomes(toys, 5, {}) if isinstance(d, Done)]) == 5


def test_a_place_where_no_engine_comes_up_does_not_end_the_start_of_another(pool):
    """It fails oftener than a run without any engine would bear, and the other is not ready yet."""
    toys = pool("late", "broken", engines=2)
    assert toys.ready == 1
    assert 0 < toys.restarts < 6, "starts that fail while another is on its way have pauses"


def test_where_no_engine_comes_up_at_all_the_run_ends_with_the_reason(pool):
    with pytest.raises(EngineError, match=r"failed to start 3 times: .*by zero"):
        pool("broken", engines=1)


def test_an_engine_that_does_not_get_ready_is_replaced(pool):
    toys = pool("slow", "toy", engines=1, policy=SchedulePolicy(first_s=2.0))
    assert (toys.ready, toys.restarts) == (1, 1)


def test_an_engine_of_two_ranks_gets_one_node_and_gives_it_back(pool):
    def groups(state):
        return [g for g in placement_group_table().values() if g["state"] == state]

    before = len(groups("REMOVED"))
    toys = pool("slow", "toy", engines=1, policy=SchedulePolicy(first_s=2.0), ranks=2)
    assert (toys.ready, toys.restarts) == (1, 1)
    assert len([d for d in outcomes(toys, 3, {}) if isinstance(d, Done)]) == 3
    (group,) = groups("CREATED")
    assert (group["strategy"], group["bundles"]) == ("STRICT_PACK", {0: {"CPU": 2.0}})
    toys.close()
    deadline = time.monotonic() + 30
    while len(groups("REMOVED")) < before + 2:  # that of the late engine, too
        assert time.monotonic() < deadline, "a placement group was not given back"
        time.sleep(0.1)


def test_an_error_of_the_task_ends_the_work_and_blames_no_node(pool, caplog):
    with pytest.raises(TaskError, match="other data there"):
        outcomes(pool("toy"), 3, {0: TaskError("other data there")})
    assert "no engine is started there" not in caplog.text


def test_a_node_that_lacks_what_a_piece_needs_is_left_out_and_the_last_one_says_why(pool, caplog):
    with pytest.raises(CheckpointError, match="no such folder"):
        outcomes(pool("toy"), 3, {0: CheckpointError("no such folder")})
    assert "no such folder; no engine is started there any more" in caplog.text


def test_a_pool_is_used_for_one_batch_after_the_other(pool):
    toys = pool("toy", "toy")
    for count in (5, 0, 1, 12):
        assert sorted(done.index for done in outcomes(toys, count, {})) == list(range(count))


def test_a_copy_left_behind_by_an_actor_that_is_ended_costs_no_engine(pool, caplog):
    toys = pool("toy", "toy")
    while toys.starting:
        toys.wait()
    gate = Supervised(
        lambda: ray.remote(Toy).options(max_concurrency=4).remote("gate"), StopRequest(1.0)
    )
    slow = {9}

    def call(actor, index):
        seconds = 5.0 if index in slow else 0.1
        slow.discard(index)  # its copy is quick
        return gate.actor.lease.remote(actor, index, seconds)

    batches = list(toys.map_unordered(call, [1] * 10, through=gate))
    assert sorted(done.index for batch in batches for done in batch) == list(range(10))
    assert not slow
    gate.close()
    assert len(outcomes(toys, 6, {})) == 6
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        toys.wait()
    assert toys.restarts == 0
    assert "lost" not in caplog.text


def test_engines_that_describe_themselves_differently_never_work_together(pool, caplog):
    toys = pool("toy", "other")
    while toys.starting:
        toys.wait()
    assert toys.ready == 1
    assert "engines differ: " in caplog.text
