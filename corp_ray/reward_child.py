"""The child process in which a task's answers are graded: the other side of `reward_pool`.

Run as `python -m corp_ray.reward_child`; see `child.serve`. It holds a task and no secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from corp_ray.child import serve
from corp_ray.errors import CorpError
from corp_ray.records import Example
from corp_ray.tasks import answer_of, grade, make_task, notes

Request = tuple[str, Sequence[tuple[Example, str]]]


def answers_to(settings: dict[str, Any]) -> Callable[[Request | None], Iterator[Any]]:
    """What `serve` calls: None is asked first and answered with the task's version and notes (or
    why there is none), then ("grade", texts with their examples) with a grade for each, and
    ("answer", the same) with what each gives as its answer."""
    task: Any = None
    error = ""
    try:
        task = make_task(**settings)
    except CorpError as reason:
        error = str(reason)

    def answer(request: Request | None) -> Iterator[Any]:
        if request is None:
            yield (
                {"error": error}
                if task is None
                else {"version": task.version, "notes": notes(task)}
            )
            return
        what, pairs = request
        for example, text in pairs:
            if what == "answer":
                yield answer_of(task, example, text)
                continue
            graded = grade(task, example, text)
            yield [graded.reward, graded.outcome, graded.format, graded.reason]

    return answer


if __name__ == "__main__":
    serve(answers_to)
