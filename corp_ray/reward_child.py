"""The child process in which a task's answers are graded: the other side of `reward_pool`.

Run as `python -m corp_ray.reward_child`; see `child.serve`. It holds a task and no secrets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from corp_ray.child import serve
from corp_ray.errors import CorpError
from corp_ray.records import Example
from corp_ray.tasks import grade, make_task, notes

Answers = Sequence[tuple[Example, str]]


def answers_to(settings: dict[str, Any]) -> Callable[[Answers | None], Iterator[Any]]:
    """What `serve` calls: None is asked first and answered with the task's version and notes (or
    why there is none), then each batch of answers with a grade for each."""
    task: Any = None
    error = ""
    try:
        task = make_task(**settings)
    except CorpError as reason:
        error = str(reason)

    def answer(request: Answers | None) -> Iterator[Any]:
        if request is None:
            yield (
                {"error": error}
                if task is None
                else {"version": task.version, "notes": notes(task)}
            )
            return
        for example, text in request:
            graded = grade(task, example, text)
            yield [graded.reward, graded.outcome, graded.format, graded.reason]

    return answer


if __name__ == "__main__":
    serve(answers_to)
