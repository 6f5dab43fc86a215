"""progress.json says how far a run is, is written seldom, and never ends a run."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest

from corp_ray.errors import CorpError
from corp_ray.observers import Displays
from corp_ray.progress import ProgressFile
from corp_ray.records import GRADED, VERIFIER_ERROR, Candidate, EngineCounts, Evaluation

PATIENCE_S = 60


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Place:
    """Takes files as a run directory would, and remembers when."""

    def __init__(self):
        self.contents, self.times = [], []

    def __call__(self, name, content):
        assert name == "progress.json"
        self.contents.append(json.loads(content))
        self.times.append(time.monotonic())

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if self.contents and condition(self.contents[-1]):
                return self.contents[-1]
            time.sleep(0.01)
        raise TimeoutError(f"last written: {self.contents[-1:]}")


@pytest.fixture
def place():
    return Place()


def evaluation(mean, split="support", seconds=2.0, tokens=30, outcome=GRADED):
    candidate = Candidate("r0c1", "candidate", 0, ((3, 0.1),))
    return Evaluation(candidate, "abc", split, (mean,) * 4, (outcome,) * 4, tokens, seconds, "f")


def test_the_final_file_has_every_number_of_the_run(place):
    clock = Clock()
    progress = ProgressFile(place, clock)
    observer = Displays(progress)
    observer.note("starting 2 engines")
    clock.now += 5
    observer.phase("round 0: population", 12, 4)
    clock.now += 10
    observer.result(evaluation(0.25))
    observer.result(evaluation(0.75, seconds=4.0, outcome=VERIFIER_ERROR))
    observer.phase_done()
    clock.now += 1
    observer.phase("round 0: validation sweep", 6, 0)
    clock.now += 4
    observer.result(evaluation(0.5, "validation", seconds=0.5))
    observer.engines(EngineCounts(2, 1, 3, 30.0, 40.0, 1))
    clock.now += 4
    progress.close("failed", "disk full")
    assert place.contents[-1] == {
        "state": "failed",
        "reason": "disk full",
        "phase": {
            "name": "round 0: validation sweep",
            "total": 6,
            "done": 1,
            "done_before": 0,
            "over": False,
            "elapsed_s": 8.0,
            "rate_per_s": 0.125,
            "tokens_per_s": 3.75,
        },
        "elapsed_s": 24.0,
        "splits": {
            "support": {"evaluations": 2, "seconds_each": 3.0, "best_reward": 0.75},
            "validation": {"evaluations": 1, "seconds_each": 0.5, "best_reward": 0.5},
        },
        "tokens": 90,
        "verifier_errors": 4,
        "engines": {
            "ready": 2,
            "starting": 1,
            "restarts": 3,
            "busy_s": 30.0,
            "ready_s": 40.0,
            "set_aside": 1,
            "idle_share": 0.25,
        },
        "notes": ["starting 2 engines"],
    }


def test_a_phase_that_is_over_keeps_its_time(place):
    clock = Clock()
    progress = ProgressFile(place, clock)
    progress.phase("test", 3, 0)
    clock.now += 3
    progress.result(evaluation(0.5, "test"))
    progress.phase_done()
    clock.now += 50
    phase = progress.content()["phase"]
    assert phase["over"] and phase["elapsed_s"] == 3.0
    progress.close("ended")


def test_what_was_scored_before_counts_as_done_and_not_for_the_rate(place):
    clock = Clock()
    progress = ProgressFile(place, clock)
    progress.phase("round 0: population", 100, 90)
    clock.now += 2
    progress.result(evaluation(0.5))
    phase = progress.content()["phase"]
    assert (phase["done"], phase["done_before"], phase["rate_per_s"]) == (91, 90, 0.5)
    progress.close("ended")


def test_nothing_is_written_before_the_first_phase(place):
    progress = ProgressFile(place, every_s=0.01)
    progress.note("starting")
    progress.engines(EngineCounts(0, 2, 0, 0.0, 0.0, 0))
    progress.close("failed", "no engine")
    assert place.contents == []


def test_news_reach_the_file_without_further_news(place):
    progress = ProgressFile(place, every_s=0.2)
    progress.phase("round 0: gate", 2, 0)
    place.wait_for(lambda content: content["phase"])
    progress.note("committed")
    assert place.wait_for(lambda content: content["notes"])["state"] == "running"
    progress.phase_done()
    place.wait_for(lambda content: content["phase"]["over"])
    progress.close("ended")


def test_a_flood_of_results_is_written_seldom(place):
    every_s = 0.3
    progress = ProgressFile(place, every_s=every_s)
    progress.phase("round 0: population", 10**6, 0)
    deadline = time.monotonic() + 4 * every_s
    count = 0
    while time.monotonic() < deadline:
        progress.result(evaluation(0.5))
        count += 1
    place.wait_for(lambda content: content["phase"]["done"] == count)
    gaps = [later - earlier for earlier, later in zip(place.times, place.times[1:], strict=False)]
    assert min(gaps) >= 0.9 * every_s
    progress.close("ended")
    assert place.contents[-1]["state"] == "ended"


def test_only_the_last_notes_are_kept(place):
    progress = ProgressFile(place)
    progress.phase("test", 1, 0)
    for number in range(25):
        progress.note(f"line {number}")
    progress.close("stopped", "SIGTERM")
    assert place.contents[-1]["notes"] == [f"line {n}" for n in range(15, 25)]


@pytest.mark.parametrize("error", [OSError("timed out"), CorpError("disk full")])
def test_a_write_that_fails_is_said_once_and_holds_nothing_up(error, caplog):
    failed = threading.Event()
    calls = []

    def write(name, content):
        calls.append(content)
        if len(calls) >= 3:
            failed.set()
        raise error

    progress = ProgressFile(write, every_s=0.01)
    with caplog.at_level(logging.WARNING, "corp_ray"):
        progress.phase("test", 1000, 0)
        while not failed.wait(0.02):
            progress.result(evaluation(0.5, "test"))
        progress.close("ended")
    assert [record.getMessage() for record in caplog.records] == [
        f"progress.json is not kept ({error}); the run goes on"
    ]


def test_a_slow_place_holds_up_no_result(place):
    free = threading.Event()

    def write(name, content):
        free.wait(PATIENCE_S)
        place(name, content)

    progress = ProgressFile(write, every_s=0.01)
    progress.phase("test", 5, 0)
    for _ in range(5):
        progress.result(evaluation(0.5, "test"))
    assert place.contents == []
    free.set()
    progress.close("ended")
    assert place.contents[-1]["phase"]["done"] == 5
