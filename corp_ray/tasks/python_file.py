"""A task of one's own: one Python file with two functions or one class, named by its path.

    examples()                 yields dicts with question and answer, or Example records
    reward(example, text)      or reward(answer, text): a number in [0, 1], or a Grade
    prompt(example)            optional: the user's message, or a list of chat messages
    answer(example, text)      optional: what a text gives as its answer, None for none; for votes

A class has these as methods, all three. The file's text travels with the task's settings, so that
every node grades by it; so it stands alone: it imports packages that are installed, no file beside
it. It runs with the rights of the run. See the README, "A task of your own".
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, OUTCOMES, VERIFIER_ERROR, Example, Grade
from corp_ray.tasks import Messages, chat
from corp_ray.tasks.python_source import FAILURES, load, read_source, said

_MOST = 1_000_000  # examples: more, and examples() is taken for one that never ends


class PythonFileTask:
    """The task that the file at `path` holds; `source` is its text where the file is not at hand.

    `arguments` are keywords of the class, or of examples(). `system_prompt` stands before a prompt
    that is a text. Errors: TaskError, one line naming the file and what it lacks.
    """

    def __init__(
        self,
        *,
        path: str,
        source: str = "",
        arguments: Mapping[str, Any] | None = None,
        system_prompt: str = "",
    ):
        self._name, self._system_prompt = Path(path).name, system_prompt
        source = source or read_source(path)
        given = dict(arguments or {})
        shown = json.dumps(given, sort_keys=True, default=str)
        digest = hashlib.sha256(f"{source}\0{shown}".encode()).hexdigest()[:16]
        module = load(path, source)
        holder = _class_of(module, self._name)
        if holder is not None:
            try:
                holder = holder(**given)
            except FAILURES as error:
                raise TaskError(f"task.arguments={shown}: {self._said(error)}") from error
        else:
            holder = module
        # A class has had its arguments by now; examples() has not.
        self._examples: Callable[[], Any] = (
            partial(holder.examples, **given) if holder is module else holder.examples
        )
        self.version = f"file {self._name} {digest}"
        own = getattr(holder, "version", None)
        if isinstance(own, str):
            self.version += f" {own}"
        self.in_place = getattr(holder, "in_place", False) is True
        self._prompt: Callable[[Example], Any] | None = getattr(holder, "prompt", None)
        self._reward: Callable[[Any, str], Any] = holder.reward
        self._by_answer = self._first_parameter() == "answer"
        for optional in ("gold", "wrong"):  # for jobs.doctor
            if callable(getattr(holder, optional, None)):
                setattr(self, optional, getattr(holder, optional))
        self._answer = _of_two(getattr(holder, "answer", None))

    def examples(self) -> Sequence[Example]:
        found = []
        try:
            for number, item in enumerate(itertools.islice(self._examples(), _MOST + 1)):
                found.append(self._example(number, item))
        except TaskError:
            raise
        except FAILURES as error:
            raise TaskError(f"{self._name}: examples() failed: {self._said(error)}") from error
        if not 0 < len(found) <= _MOST:
            what = "gives no example" if not found else f"gives more than {_MOST:,} examples"
            raise TaskError(f"{self._name}: examples() {what}")
        return found

    def prompt(self, example: Example) -> Messages:
        if self._prompt is None:
            return chat(self._system_prompt, example.question)
        try:
            found = self._prompt(example)
        except FAILURES as error:
            raise TaskError(f"{self._name}: prompt() failed: {self._said(error)}") from error
        if isinstance(found, str):
            return chat(self._system_prompt, found)
        if not _is_chat(found):
            raise TaskError(
                f"{self._name}: prompt() gave {_short(found)}, expected a text or a list of "
                "messages with role and content"
            )
        if self._system_prompt:
            raise TaskError(
                f"task.system_prompt={self._system_prompt!r}: prompt() of {self._name} writes "
                "all messages itself"
            )
        return found

    def reward(self, example: Example, text: str) -> Grade:
        try:
            found = self._reward(example.answer if self._by_answer else example, text)
            score = found.reward if isinstance(found, Grade) else found
            if isinstance(score, str) or not 0.0 <= float(score) <= 1.0:
                raise ValueError(f"reward() gave {_short(score)}, expected a number in [0, 1]")
            if not isinstance(found, Grade):
                return Grade(float(score), GRADED)
            if found.outcome not in OUTCOMES:
                raise ValueError(f"reward() gave the outcome {_short(found.outcome)}")
            return found
        except FAILURES as error:
            return Grade(0.0, VERIFIER_ERROR, reason=self._said(error))

    def answer(self, example: Example, text: str) -> str | None:
        """What the file's own answer(example, text) says, else the text."""
        if self._answer is None:
            return text.strip()
        try:
            found = self._answer(example, text)
        except FAILURES:
            return None
        return None if found is None else str(found)

    def _example(self, number: int, item: Any) -> Example:
        if isinstance(item, Example):
            return item
        place = f"{self._name}: examples() item {number + 1}"
        if not isinstance(item, Mapping):
            raise TaskError(f"{place} is {_short(item)}, expected a dict or an Example")
        for field in ("question", "answer"):
            if item.get(field) in (None, ""):
                raise TaskError(f"{place} has no {field!r}; it has {', '.join(map(str, item))}")
        name = str(item.get("id", number))
        return Example(name, str(item["question"]), str(item["answer"]), dict(item))

    def _first_parameter(self) -> str:
        """The name of reward's first parameter. Errors: TaskError when it does not take two."""
        try:
            parameters = inspect.signature(self._reward)
            parameters.bind(None, "")
        except (TypeError, ValueError) as error:
            raise TaskError(
                f"{self._name}: reward() must take (example, text) or (answer, text): {error}"
            ) from error
        return next(iter(parameters.parameters), "")

    def _said(self, error: BaseException) -> str:
        return said(self._name, error)


def _class_of(module: ModuleType, name: str) -> Any:
    """The task's class in a module; None when it has the two functions instead.

    Errors: TaskError when it has neither, both, or more than one class.
    """
    own = [
        value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and key[:1] != "_"
    ]
    classes = [c for c in own if callable(getattr(c, "examples", None)) and hasattr(c, "reward")]
    classes = [c for c in classes if not any(c in d.__mro__[1:] for d in classes)]
    functions = [f for f in ("examples", "reward") if callable(getattr(module, f, None))]
    if len(classes) > 1:
        raise TaskError(f"{name}: more than one task: {', '.join(c.__name__ for c in classes)}")
    if classes and functions:
        raise TaskError(
            f"{name}: class {classes[0].__name__} and function {functions[0]}(): expected one class "
            "or the functions"
        )
    if classes:
        if not callable(getattr(classes[0], "prompt", None)):
            raise TaskError(f"{name}: class {classes[0].__name__} has no prompt(example)")
        return classes[0]
    missing = [f for f in ("examples", "reward") if f not in functions]
    if missing:
        raise TaskError(
            f"{name}: no {' and no '.join(f'{f}()' for f in missing)}: expected functions "
            "examples() and reward(example, text), or one class with examples, prompt and reward"
        )
    return None


def _of_two(found: Any) -> Callable[[Example, str], Any] | None:
    """`found` where it can be called with two arguments: a file may use the name for another thing."""
    try:
        inspect.signature(found).bind(None, "")
    except (TypeError, ValueError):
        return None
    return found


def _is_chat(found: Any) -> bool:
    return (
        isinstance(found, list)
        and bool(found)
        and all(
            isinstance(m, dict)
            and set(m) == {"role", "content"}
            and all(isinstance(v, str) for v in m.values())
            for m in found
        )
    )


def _short(value: Any) -> str:
    try:
        return " ".join(repr(value).split())[:80]
    except Exception:  # noqa: BLE001 the file's own class may have a broken repr
        return f"a {type(value).__name__}"
