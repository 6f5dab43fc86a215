"""A child answers, is killed when late with all it started, and a new one takes its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from corp_ray.child import Child, ChildError
from tests import runs


@pytest.fixture
def child():
    made = Child("tests.echo_child", {"setup": 1})
    yield made
    made.close()


def take(replies, found):
    for reply in replies:
        found.append(reply)


def test_one_child_answers_request_after_request_with_its_setup(child):
    first, second = child.ask("a", 30), child.ask({"b": (1, 2)}, 30)
    assert first[:2] == [{"setup": 1}, "a"]
    assert second[:2] == [{"setup": 1}, {"b": [1, 2]}]
    assert first[2] == second[2] != os.getpid()


@pytest.mark.parametrize(
    ("request_", "reason"), [("loop in C", "no answer within 1 s"), ("exit", "died")]
)
def test_a_hung_or_dead_child_costs_one_request(child, request_, reason):
    pid = child.ask("a", 30)[2]
    with pytest.raises(ChildError, match=reason):
        child.ask(request_, 1)
    assert runs.ended(pid)
    assert child.ask("a", 30)[2] != pid


def test_what_came_before_the_hang_is_not_lost(child):
    found = []
    replies = child.stream(("many", 5, 3), 5, 1)
    with pytest.raises(ChildError, match="no answer"):
        take(replies, found)
    assert found == [0, 1, 2]
    assert list(child.stream(("many", 3, None), 3, 30)) == [0, 1, 2]


def test_an_abandoned_stream_leaves_no_stale_answers(child):
    replies = child.stream(("many", 5, None), 5, 30)
    assert next(replies) == 0
    replies.close()
    assert child.ask("a", 30)[1] == "a"


def test_what_a_child_prints_is_no_answer(child):
    assert child.ask("chatter", 30) == "said"
    assert child.ask("a", 30)[1] == "a"


def test_what_a_child_started_ends_with_it(child):
    pid = child.ask("leave a process", 30)
    child.close()
    assert runs.ended(pid)


def test_a_child_that_cannot_start_says_so():
    with pytest.raises(ChildError, match="died"):
        Child("tests.echo_child", "cannot start").ask("a", 30)


def test_an_orphan_ends_itself_even_in_c_code():
    script = (
        "from corp_ray.child import Child; import sys; c = Child('tests.echo_child')\n"
        "print(c.ask('a', 30)[2], flush=True); c.ask('loop in C', 3)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert runs.ended(pid)
