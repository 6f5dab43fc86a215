"""A verifier that hangs or crashes costs its answer, in order, and no other's."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, Example, Grade
from corp_ray.reward_pool import InPlace, RewardPool, rewards_of
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import TaskSettings
from tests import runs
from tests.bad_graders import EXAMPLES


@pytest.fixture
def settings(tmp_path):
    path = runs.task_file(tmp_path / "task.jsonl", 20)
    return {"kind": "rows", "path": str(path), "grader": "tests.bad_graders:naughty"}


@pytest.fixture
def pool(settings):
    made = []

    def make(**options):
        made.append(RewardPool(settings, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


BAD = {
    "hang": "no answer within 1 s",
    "hang in C": "no answer within 1 s",
    "crash": "died",
    "exit": "died",
    "raise": "RuntimeError: broken",
    "too much": "reward 1.5 is outside [0, 1]",
    "not a number": "reward nan is outside [0, 1]",
}


@pytest.mark.parametrize("processes", [1, 3])
def test_each_bad_grading_is_a_verifier_error_and_all_others_are_graded(pool, processes):
    texts = [example.answer for example in EXAMPLES]
    texts[3::20] = ["wrong"] * len(texts[3::20])
    bad = dict(zip((0, 50, 51, 99, 100, 150, 199), BAD, strict=True))
    for place, text in bad.items():
        texts[place] = text
    grades = pool(processes=processes, limit_s=1.0).grade(EXAMPLES, texts)
    assert len(grades) == len(EXAMPLES)
    for place, grade in enumerate(grades):
        if place in bad:
            assert (grade.reward, grade.outcome) == (0.0, VERIFIER_ERROR), place
            assert BAD[bad[place]] in grade.reason
        else:
            assert grade == Grade(float(place % 20 != 3), GRADED), place


def test_what_a_grader_prints_is_not_taken_for_a_grade(pool):
    texts = ["shout", EXAMPLES[1].answer, "shout"]
    grades = pool(processes=1).grade(EXAMPLES[:3], texts)
    assert [grade.reward for grade in grades] == [0.0, 1.0, 0.0]


OWN_TASK = """
import os
import time


def examples():
    yield {"question": "q", "answer": "a"}


def reward(answer, text):
    return 0.0


def answer(question, text):
    if text == "hang":
        time.sleep(3600)
    if text == "crash":
        os._exit(1)
    if text == "raise":
        raise ValueError(text)
    return None if text == "none" else text.upper()
"""


def test_an_answer_that_cannot_be_had_is_none_and_all_others_are(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN_TASK)
    texts = [f"t{number}" for number in range(100)]
    bad = dict(zip((0, 31, 32, 50, 99), ("hang", "crash", "raise", "none", "hang"), strict=True))
    given = [bad.get(number, text) for number, text in enumerate(texts)]
    pool = RewardPool({"kind": "python_file", "path": str(path)}, processes=2, limit_s=1.0)
    found = pool.answers([Example("0", "q", "a")] * len(given), given)
    pool.close()
    assert found == [None if n in bad else text.upper() for n, text in enumerate(texts)]


def test_a_pool_says_what_its_task_has_to_say_or_why_there_is_none(pool, settings):
    assert pool().start() == []
    with pytest.raises(TaskError, match="expected exact, numeric or module:function"):
        RewardPool(settings | {"grader": "tests.bad_graders:absent"}).start()


def test_only_what_is_pure_and_quick_is_graded_in_place(settings):
    for grader, kind in (("numeric", InPlace), ("tests.bad_graders:naughty", RewardPool)):
        task = make_task(**settings | {"grader": grader})
        rewards = rewards_of(task, TaskSettings(settings, {}, 0, task.version, {}))
        assert type(rewards) is kind
        assert rewards.grade(EXAMPLES[:2], ["0", "7"]) == [Grade(1.0), Grade(0.0)]
        rewards.close()


def test_a_pool_that_is_closed_ends_its_children_and_starts_no_more(pool):
    one = pool(processes=1, limit_s=60.0)
    one.grade(EXAMPLES[:1], ["0"])
    (child,) = one._children
    pid = child._process.pid
    waiting = ThreadPoolExecutor(1).submit(one.grade, EXAMPLES[:2], ["hang", "1"])
    time.sleep(0.5)
    one.close()
    assert waiting.exception(timeout=30) is not None
    assert child._process is None
    assert runs.ended(pid)
