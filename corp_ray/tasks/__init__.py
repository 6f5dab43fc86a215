"""Tasks: where questions come from and what a text is worth. One file per kind of task.

A task is any object with the `Task` protocol; `make_task` builds one by its kind. Tasks take
plain arguments and know nothing of models. See docs/method.md, "Rewards and splits".
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from corp_ray.errors import TaskError
from corp_ray.records import Example, Grade

Messages = list[dict[str, str]]


@runtime_checkable
class Task(Protocol):
    """What a run needs of a task.

    `version` names everything beyond the examples that grading depends on; rewards of different
    versions are never mixed.
    """

    version: str

    def examples(self) -> Sequence[Example]: ...

    def prompt(self, example: Example) -> Messages: ...

    def reward(self, example: Example, text: str) -> Grade: ...


_KINDS = {
    "humaneval": ("corp_ray.tasks.programs", "HumanEvalTask"),
    "mbpp": ("corp_ray.tasks.programs", "MBPPTask"),
    "reasoning_gym": ("corp_ray.tasks.reasoning_gym", "ReasoningGymTask"),
    "rows": ("corp_ray.tasks.rows", "RowsTask"),
}


def kinds() -> tuple[str, ...]:
    return tuple(_KINDS)


def make_task(kind: str, **settings: Any) -> Task:
    """The task of `kind` with its own settings. Errors: TaskError for an unknown kind."""
    if kind not in _KINDS:
        raise TaskError(f"task.kind={kind!r}: expected one of {', '.join(_KINDS)}")
    module, name = _KINDS[kind]
    return getattr(importlib.import_module(module), name)(**settings)


def chat(system_prompt: str, question: str) -> Messages:
    """System message (when there is one) and user message."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}]
