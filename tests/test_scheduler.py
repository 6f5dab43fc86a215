"""The scheduler by itself: nothing is lost or done twice, nobody idles, stragglers and hangs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray.scheduler import SchedulePolicy, Scheduler


def make(engines=2, sizes=(1.0,) * 6, **policy):
    scheduler = Scheduler(SchedulePolicy(**policy))
    for number in range(engines):
        scheduler.join(number, 0.0)
    scheduler.begin(sizes)
    return scheduler


def warm(scheduler, engines, seconds=1.0, now=0.0):
    """Each engine has done two pieces, of which the second is measured."""
    for _ in range(2):
        scheduler.begin([1.0] * engines)
        calls = scheduler.assign(now)
        now += seconds
        for call in calls:
            scheduler.finish(call.number, now)
    return now


def measured(engines):
    """A scheduler that knows how long a piece takes, with two more to deal, and the time then."""
    scheduler = make(engines=engines)
    now = warm(scheduler, engines, now=warm(scheduler, engines))
    scheduler.begin([1.0, 1.0])
    return scheduler, now


def test_every_engine_gets_a_piece_and_one_in_waiting_while_many_are_left():
    scheduler = make(engines=2, sizes=[1.0] * 10)
    calls = scheduler.assign(0.0)
    assert [(c.engine, c.task) for c in calls] == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert [c.started for c in calls] == [0.0, 0.0, None, None]
    assert scheduler.assign(0.0) == []


def test_the_last_pieces_wait_for_whoever_is_free_first():
    scheduler = make(engines=2, sizes=[1.0] * 4)
    first, second = scheduler.assign(0.0)
    assert scheduler.finish(second.number, 1.0) == 1
    assert [(c.engine, c.task) for c in scheduler.assign(1.0)] == [(1, 2)]
    assert first.engine == 0


def test_a_piece_that_waits_starts_when_the_one_before_it_ends():
    scheduler = make(engines=1, sizes=[1.0] * 4)
    first, second = scheduler.assign(0.0)
    scheduler.finish(first.number, 3.0)
    assert second.started == 3.0


def test_a_lost_engines_pieces_are_done_by_others():
    scheduler = make(engines=2, sizes=[1.0] * 10)
    scheduler.assign(0.0)
    assert scheduler.leave(0, 1.0, blame=True) == []
    done = set()
    now = 1.0
    while scheduler.unfinished:
        scheduler.assign(now)
        now += 1
        call = next(iter(scheduler._engines[1].calls))
        done.add(scheduler.finish(call.number, now))
    assert done == set(range(10))


def test_a_piece_that_takes_three_engines_down_is_given_up_and_only_that():
    scheduler = make(engines=1, sizes=[1.0] * 3)
    bad, given_up, done = 1, [], []
    engine = 0
    for moment in range(100):
        if not scheduler.unfinished:
            break
        for call in scheduler.assign(float(moment)):
            if call.task == bad:
                given_up += scheduler.leave(engine, moment + 0.5, blame=True)
                engine += 1
                scheduler.join(engine, moment + 0.5)
                break
            done.append(scheduler.finish(call.number, moment + 0.5))
    assert given_up == [bad]
    assert sorted(done) == [0, 2]
    assert engine == 3


@pytest.mark.parametrize("place", [0, 1], ids=["runs", "waits while the first is graded"])
@pytest.mark.parametrize("attempts", [2, 3])
def test_whichever_of_two_took_an_engine_down_nobody_else_is_given_up(place, attempts):
    """The loss of an engine with two pieces does not say which it was; they run alone from then on."""
    scheduler = make(engines=1, sizes=[1.0] * 6, attempts=attempts)
    both = scheduler.assign(0.0)
    assert len(both) == 2
    bad = both[place].task
    given_up, done, lost = scheduler.leave(0, 0.5, blame=True), [], 1
    scheduler.join(1, 0.5)
    for moment in range(1, 20):
        calls = scheduler.assign(float(moment))
        if {call.task for call in calls} & {call.task for call in both}:
            assert len(calls) == 1
        if any(call.task == bad for call in calls):
            given_up += scheduler.leave(lost, moment + 0.5, blame=True)
            lost += 1
            scheduler.join(lost, moment + 0.5)
        else:
            done += [scheduler.finish(call.number, moment + 0.5) for call in calls]
    assert scheduler.unfinished == 0
    assert (given_up, sorted(done)) == ([bad], sorted(set(range(6)) - {bad}))
    assert lost == attempts
    assert scheduler.tries(bad) == attempts


def test_a_single_attempt_gives_up_what_was_alone_and_nothing_that_shared_an_engine():
    scheduler = make(engines=1, sizes=[1.0] * 2, attempts=1)
    (alone,) = scheduler.assign(0.0)
    assert scheduler.leave(0, 1.0, blame=True) == [alone.task]
    scheduler = make(engines=1, sizes=[1.0] * 3, attempts=1)
    assert len(scheduler.assign(0.0)) == 2
    assert scheduler.leave(0, 1.0, blame=True) == []


def test_a_suspect_runs_with_nothing_behind_it_however_long_the_queue_is():
    scheduler = make(engines=1, sizes=[1.0] * 9)
    for moment in range(3):  # each takes two of the nine with it
        assert len(scheduler.assign(float(moment))) == 2
        scheduler.leave(moment, moment + 0.5, blame=True)
        scheduler.join(moment + 1, moment + 0.5)
    tasks = []
    for moment in range(3, 20):
        calls = scheduler.assign(float(moment))
        tasks.append([call.task for call in calls])
        for call in calls:
            scheduler.finish(call.number, moment + 0.5)
    assert [len(t) for t in tasks if t] == [2] + [1] * 7


def test_a_piece_that_fails_behind_another_is_counted_as_well():
    """Its error may be there before the first one's answers are graded."""
    scheduler = make(engines=1, sizes=[1.0] * 5, attempts=2)
    first, second = scheduler.assign(0.0)
    assert scheduler.fail(second.number, 0.5) is None
    assert scheduler.tries(second.task) == 1
    scheduler.finish(first.number, 0.7)
    for moment in range(1, 10):
        for call in scheduler.assign(float(moment)):
            if call.task == second.task:
                assert scheduler.fail(call.number, moment + 0.5) == second.task
                return
            scheduler.finish(call.number, moment + 0.5)
    raise AssertionError("it never ran again")


def test_a_node_that_goes_down_blames_nobody():
    scheduler = make(engines=1, sizes=[1.0], attempts=2)
    for engine in range(5):
        assert len(scheduler.assign(float(engine))) == 1
        assert scheduler.leave(engine, engine + 0.5, blame=False) == []
        scheduler.join(engine + 1, engine + 0.5)


def test_an_idle_engine_copies_a_straggler_and_the_first_result_counts():
    scheduler, now = measured(engines=2)
    slow, fast = scheduler.assign(now)
    scheduler.finish(fast.number, now + 1)
    assert scheduler.assign(now + 1.9) == [], "not yet twice the median"
    (copy,) = scheduler.assign(now + 2.1)
    assert (copy.task, copy.engine) == (slow.task, fast.engine)
    assert scheduler.finish(copy.number, now + 3.1) == slow.task
    assert scheduler.unfinished == 0
    assert scheduler.finish(slow.number, now + 9) is None


def test_what_has_taken_an_engine_down_gets_no_copy():
    scheduler, now = measured(engines=3)
    deadly, slow = scheduler.assign(now)
    scheduler.leave(deadly.engine, now + 0.1, blame=True)
    (again,) = scheduler.assign(now + 0.1)
    assert again.task == deadly.task
    scheduler.join(3, now + 0.2)
    (copy,) = scheduler.assign(now + 9.0)
    assert copy.task == slow.task
    scheduler.join(4, now + 9.0)
    assert scheduler.assign(now + 99.0) == []


def test_an_idle_engine_takes_over_what_waits_behind_a_busy_one():
    scheduler = make(engines=1, sizes=[1.0] * 3)
    running, waiting = scheduler.assign(0.0)
    scheduler.join(1, 0.0)
    (third,) = scheduler.assign(0.0)
    assert third.engine == 1
    scheduler.finish(third.number, 1.0)
    (copy,) = scheduler.assign(1.0)
    assert (copy.task, copy.engine) == (waiting.task, 1)
    assert scheduler.finish(copy.number, 2.0) == waiting.task
    assert scheduler.waiting(wanted=False) == [waiting.number]
    assert running.started == 0.0


def test_calls_of_an_earlier_batch_keep_their_engine_busy_and_count_for_nothing():
    scheduler = make(engines=2, sizes=[1.0] * 2)
    old, other = scheduler.assign(0.0)
    scheduler.finish(other.number, 1.0)
    scheduler.begin([1.0])
    (call,) = scheduler.assign(1.0)
    assert call.engine == other.engine
    assert scheduler.finish(old.number, 2.0) is None
    assert scheduler.unfinished == 1
    assert scheduler.finish(call.number, 3.0) == 0


def test_an_engine_hangs_when_it_is_past_ten_times_the_longest_and_the_floor():
    scheduler = make(engines=2, hang=10.0, hang_floor_s=5.0)
    now = warm(scheduler, 2)
    scheduler.begin([1.0, 1.0])
    scheduler.assign(now)
    assert scheduler.overdue(now + 9.9) == []
    assert scheduler.overdue(now + 10.1) == [0, 1]
    scheduler = make(engines=1, hang=10.0, hang_floor_s=50.0)
    now = warm(scheduler, 1)
    scheduler.begin([1.0])
    scheduler.assign(now)
    assert scheduler.overdue(now + 49) == []
    assert scheduler.overdue(now + 51) == [0]


def test_a_first_call_and_one_around_a_new_center_have_the_long_limit():
    scheduler = make(engines=1, hang_floor_s=1.0, first_s=1000.0)
    scheduler.assign(0.0)
    assert scheduler.overdue(999.0) == []
    assert scheduler.overdue(1001.0) == [0]
    scheduler = make(engines=1, hang_floor_s=1.0, first_s=1000.0)
    now = warm(scheduler, 1)
    scheduler.renew()
    scheduler.begin([1.0])
    scheduler.assign(now)
    assert scheduler.overdue(now + 999) == []


def test_a_left_over_call_around_the_last_center_does_not_make_an_engine_warm():
    scheduler = make(engines=1, hang_floor_s=1.0, first_s=1000.0)
    now = warm(scheduler, 1)
    scheduler.begin([1.0])
    (old,) = scheduler.assign(now)
    scheduler.renew()
    scheduler.begin([1.0] * 3)
    scheduler.assign(now)
    scheduler.finish(old.number, now + 1)
    scheduler.assign(now + 1)
    assert scheduler.overdue(now + 900) == []


def test_an_engine_that_fails_at_whatever_it_gets_is_sick_and_blames_nothing():
    """And where the next one in its place is no better, the others do the work."""
    scheduler = make(engines=4, sizes=[1.0] * 60)
    bad, names, calls, now, done = {0}, 4, {}, 0.0, []
    while scheduler.unfinished:
        for call in scheduler.assign(now):
            calls[call.number] = call
        heads = [c for c in calls.values() if c.started is not None]
        call = min(heads, key=lambda c: c.started + (0.05 if c.engine in bad else 20.0))
        now = max(now, call.started + (0.05 if call.engine in bad else 20.0))
        del calls[call.number]
        if call.engine not in bad:
            done.append(scheduler.finish(call.number, now))
            continue
        assert scheduler.fail(call.number, now) is None
        if scheduler.is_sick(call.engine):
            gone = call.engine
            calls = {n: c for n, c in calls.items() if c.engine != gone}
            assert scheduler.leave(gone, now, blame=False) == []
            bad, names = {names}, names + 1
            scheduler.join(names - 1, now)
    assert sorted(done) == list(range(60))
    assert names > 6


def test_where_everything_fails_everywhere_the_pieces_are_given_up():
    scheduler = make(engines=2, sizes=[1.0] * 5, attempts=3)
    given_up, replaced, names, now = [], 0, 2, 0.0
    for _ in range(1000):
        if not scheduler.unfinished:
            break
        calls = scheduler.assign(now)
        now += 1.0
        for call in calls:
            if call.engine not in scheduler.engines:
                continue
            task = scheduler.fail(call.number, now)
            given_up += [] if task is None else [task]
            if scheduler.is_sick(call.engine):
                replaced += 1
                given_up += scheduler.leave(call.engine, now, blame=False)
                scheduler.join(names, now)
                names += 1
    assert sorted(given_up) == list(range(5))
    assert replaced == 3


def test_a_success_in_between_tells_a_bad_piece_from_a_sick_engine():
    scheduler = make(engines=1, sizes=[1.0] * 4, in_flight=1)
    outcomes = []
    for failing in (True, False, True, False, False):
        (call,) = scheduler.assign(0.0)
        end = scheduler.fail if failing else scheduler.finish
        outcomes.append((call.task, end(call.number, 1.0)))
        assert not scheduler.is_sick(0)
    assert outcomes == [(0, None), (1, 1), (2, None), (3, 3), (0, 0)]


def test_larger_pieces_may_take_longer():
    scheduler = make(engines=1, hang=2.0, hang_floor_s=0.1)
    now = warm(scheduler, 1)
    scheduler.begin([7.0])
    scheduler.assign(now)
    assert scheduler.overdue(now + 13.9) == []
    assert scheduler.overdue(now + 14.1) == [0]


@pytest.mark.parametrize("engines", [1, 3])
def test_engine_seconds_are_those_with_a_call_running(engines):
    scheduler = make(engines=engines, sizes=[1.0] * engines)
    calls = scheduler.assign(0.0)
    for call in calls:
        scheduler.finish(call.number, 2.0)
    assert scheduler.engine_seconds(4.0) == (2.0 * engines, 4.0 * engines)
    scheduler.leave(0, 4.0, blame=False)
    assert scheduler.engine_seconds(4.0) == (2.0 * engines, 4.0 * engines)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40))
def test_whatever_happens_every_piece_is_done_once_or_given_up_once(seed, engines, pieces):
    """Random durations, losses, failures, joins; the batch ends and each piece has one outcome."""
    chance = random.Random(seed)
    scheduler = make(engines=engines, sizes=[1.0] * pieces)
    open_calls, outcomes, names, now = {}, [], engines, 0.0
    for _ in range(10_000):
        if not scheduler.unfinished:
            break
        for call in scheduler.assign(now):
            assert call.number not in open_calls
            open_calls[call.number] = call
        now += chance.expovariate(1.0)
        running = [c for c in open_calls.values() if c.started is not None]
        what = chance.random()
        if what < 0.7 and running:
            call = chance.choice(running)
            del open_calls[call.number]
            outcomes.append(scheduler.finish(call.number, now))
        elif what < 0.8 and running:
            call = chance.choice(running)
            del open_calls[call.number]
            outcomes.append(scheduler.fail(call.number, now))
        elif what < 0.9 and scheduler.engines:
            engine = chance.choice(scheduler.engines)
            open_calls = {n: c for n, c in open_calls.items() if c.engine != engine}
            outcomes += scheduler.leave(engine, now, blame=chance.random() < 0.5)
        else:
            scheduler.join(names, now)
            names += 1
    assert scheduler.unfinished == 0
    counted = [task for task in outcomes if task is not None]
    assert sorted(counted) == list(range(pieces))
