"""Grades answers in child processes, so that a verifier that hangs or crashes costs one answer.

A task that says `in_place` (its grading is pure, quick and cannot fail) is graded where it is asked.
No Ray here: a grader actor or the gate holds a pool on its node. See docs/method.md, "Rewards and
splits".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from corp_ray.child import Child, ChildError
from corp_ray.errors import TaskError
from corp_ray.records import VERIFIER_ERROR, Example, Grade
from corp_ray.tasks import answer_of, grade, in_place, notes
from corp_ray.tasks.settings import TaskSettings

Found = TypeVar("Found")
_MODULE = "corp_ray.reward_child"
_CHUNK = 32  # answers in one request at most
_MOST = 8  # children of one pool where nobody says how many


def processes_here() -> int:
    """Children for one engine where nobody says how many: a quarter of the CPUs, from 1 to 8."""
    return max(1, min((os.cpu_count() or 1) // 4, _MOST))


class RewardPool:
    """`processes` children (0: as many as suit this machine), each with the task of `settings`.

    `limit_s` is what one answer may take. May be used by several threads at once.
    """

    def __init__(self, settings: dict[str, Any], *, processes: int = 0, limit_s: float = 60.0):
        self._settings, self._limit_s = settings, limit_s
        self._processes = processes or processes_here()
        self._threads = ThreadPoolExecutor(self._processes, thread_name_prefix="grading")
        self._mine = threading.local()
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> list[str]:
        """Start the first child; what its task has to say. Errors: TaskError when there is none."""
        try:
            said = self._threads.submit(lambda: self._child().ask(None, self._limit_s)).result()
        except ChildError as error:
            raise TaskError(
                f"the task could not be made in a process of its own: {error}"
            ) from error
        if "error" in said:
            raise TaskError(said["error"])
        return list(said["notes"])

    def grade(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """One grade per answer, in order; the verifier's failures are outcomes."""

        def failed(error: ChildError) -> Grade:
            return Grade(0.0, VERIFIER_ERROR, reason=str(error))

        return self._each("grade", examples, texts, lambda said: Grade(*said), failed)

    def answers(self, examples: Sequence[Example], texts: Sequence[str]) -> list[str | None]:
        """`tasks.answer_of` of each text, in order; None where it ends its process or is late."""
        return self._each("answer", examples, texts, lambda said: said, lambda error: None)

    def _each(
        self,
        what: str,
        examples: Sequence[Example],
        texts: Sequence[str],
        of: Callable[[Any], Found],
        failed: Callable[[ChildError], Found],
    ) -> list[Found]:
        """What the children say of each text, in order, as `of` makes it."""
        pairs = list(zip(examples, texts, strict=True))
        size = max(1, min(_CHUNK, -(-len(pairs) // (2 * self._processes))))

        def chunk(start: int) -> list[Found]:
            return self._asked(what, pairs[start : start + size], of, failed)

        chunks = self._threads.map(chunk, range(0, len(pairs), size))
        return [one for found in chunks for one in found]

    def _asked(
        self,
        what: str,
        pairs: Sequence[tuple[Example, str]],
        of: Callable[[Any], Found],
        failed: Callable[[ChildError], Found],
    ) -> list[Found]:
        """The same of some by the child of this thread; what ends it costs that one alone."""
        found: list[Found] = []
        while len(found) < len(pairs):
            rest = pairs[len(found) :]
            try:
                for said in self._child().stream((what, rest), len(rest), self._limit_s):
                    found.append(of(said))
            except ChildError as error:
                if self._closed:
                    raise
                found.append(failed(error))
        return found

    def _child(self) -> Child:
        """The child of this thread."""
        child: Child | None = getattr(self._mine, "child", None)
        if child is None:
            child = self._mine.child = Child(_MODULE, self._settings)
            with self._lock:
                self._children.append(child)
        return child

    def close(self) -> None:
        """End the children; what they still grade counts as their failure."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for child in self._children:
                child.close()


class InPlace:
    """What `RewardPool` does, in the calling thread: for a task whose grading cannot go wrong."""

    def __init__(self, task: Any):
        self._task = task

    def start(self) -> list[str]:
        return notes(self._task)

    def grade(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        return [grade(self._task, e, text) for e, text in zip(examples, texts, strict=True)]

    def answers(self, examples: Sequence[Example], texts: Sequence[str]) -> list[str | None]:
        return [answer_of(self._task, e, text) for e, text in zip(examples, texts, strict=True)]

    def close(self) -> None:
        pass


def rewards_of(task: Any, settings: TaskSettings) -> RewardPool | InPlace:
    """What grades a task's answers in the way that the task asks for."""
    if in_place(task):
        return InPlace(task)
    return RewardPool(settings.task, processes=settings.processes, limit_s=settings.limit_s)
