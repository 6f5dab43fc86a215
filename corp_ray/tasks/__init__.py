"""Tasks: where questions come from and what a text is worth. One file per kind of task.

A task is any object with the `Task` protocol; `make_task` builds one by its kind. Tasks take
plain arguments and know nothing of models. See docs/method.md, "Rewards and splits".
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, OUTCOMES, Example, Grade

Messages = list[dict[str, str]]


@runtime_checkable
class Task(Protocol):
    """What a run needs of a task.

    `version` names everything beyond the examples that grading depends on; rewards of different
    versions are never mixed. A task may have more: `in_place = True` when `reward` is pure, quick
    and cannot fail, so that it needs no process of its own; `notes()`, lines for people on how it
    grades on this machine; `gold(example)`, a text that must be graded 1, and `wrong(example)`,
    texts that must be graded 0, for jobs.doctor; `answer(example, text)`, see `answer_of`.
    """

    version: str

    def examples(self) -> Sequence[Example]: ...

    def prompt(self, example: Example) -> Messages: ...

    def reward(self, example: Example, text: str) -> Grade: ...


_KINDS = {
    "gsm8k": ("corp_ray.tasks.gsm8k", "Gsm8kTask"),
    "math500": ("corp_ray.tasks.math500", "Math500Task"),
    "olympiadbench": ("corp_ray.tasks.olympiadbench", "OlympiadBenchTask"),
    "humaneval": ("corp_ray.tasks.programs", "HumanEvalTask"),
    "mbpp": ("corp_ray.tasks.programs", "MBPPTask"),
    "reasoning_gym": ("corp_ray.tasks.reasoning_gym", "ReasoningGymTask"),
    "rows": ("corp_ray.tasks.rows", "RowsTask"),
    "python_file": ("corp_ray.tasks.python_file", "PythonFileTask"),
    "countdown": ("corp_ray.tasks.countdown", "CountdownTask"),
    "rocstories": ("corp_ray.tasks.rocstories", "ROCStoriesTask"),
}


def kinds() -> tuple[str, ...]:
    return tuple(_KINDS)


def make_task(kind: str, **settings: Any) -> Task:
    """The task of `kind` with its own settings. Errors: TaskError for an unknown kind."""
    if kind not in _KINDS:
        raise TaskError(f"task.kind={kind!r}: expected one of {', '.join(_KINDS)}")
    module, name = _KINDS[kind]
    return getattr(importlib.import_module(module), name)(**settings)


def published(kind: str) -> Any:
    """Where the rows of a kind are published (a `sources.Upstream`), or None for other kinds."""
    module, name = _KINDS[kind]
    return getattr(getattr(importlib.import_module(module), name), "upstream", None)


def chat(system_prompt: str, question: str) -> Messages:
    """System message (when there is one) and user message."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}]


def in_place(task: Any) -> bool:
    """Whether a task's answers are graded beside the engine, not in processes of their own."""
    return bool(getattr(task, "in_place", False))


def notes(task: Any) -> list[str]:
    """What a task has to say of how it grades on this machine."""
    return list(task.notes()) if hasattr(task, "notes") else []


def answer_of(task: Any, example: Example, text: str) -> str | None:
    """What a text gives as its answer, equal answers as equal strings; None when it gives none.

    The task's own `answer(example, text)`, which is pure and quick, else the text without white
    space at its ends. An exception counts as no answer.
    """
    own = getattr(task, "answer", None)
    try:
        found = own(example, text) if callable(own) else text.strip()
    except Exception:  # noqa: BLE001 it may be the user's code, and a text may be anything
        return None
    return None if found is None else str(found) or None


def grade(task: Task, example: Example, text: str) -> Grade:
    """`task.reward`, whatever it does: an exception or a reward outside [0, 1] is an outcome."""
    try:
        graded = task.reward(example, text)
        if not 0.0 <= graded.reward <= 1.0:
            raise ValueError(f"reward {graded.reward!r} is outside [0, 1]")
        if graded.outcome not in OUTCOMES:
            raise ValueError(f"outcome {graded.outcome!r} is none of {', '.join(OUTCOMES)}")
    except Exception as error:  # noqa: BLE001 a verifier may be foreign code: its failure is an outcome
        return Grade.failed(error)
    if graded.outcome != GRADED and graded.reward:
        return Grade(0.0, graded.outcome, graded.format, graded.reason)
    return graded
