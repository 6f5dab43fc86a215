"""Question/answer rows from a JSONL or Parquet file, graded exactly, as numbers, or by a function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, Example, Grade
from corp_ray.tasks import Messages, chat, numbers
from corp_ray.tasks.grading import grade_exact, grade_numeric
from corp_ray.tasks.sources import lacking, read_file

Grader = Callable[[str, str], Grade]


def _function_grader(name: str) -> tuple[Grader, str]:
    module_name, _, function_name = name.partition(":")
    try:
        if not (module_name and function_name):
            raise ImportError("no module or no function is named")
        function = getattr(importlib.import_module(module_name), function_name)
        source = inspect.getsource(function)
    except (ImportError, AttributeError, OSError, TypeError) as error:
        raise TaskError(
            f"task.grader={name!r}: expected exact, numeric or module:function ({error})"
        ) from error

    def grade(answer: str, text: str) -> Grade:
        score = float(function(answer, text))
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"reward {score} is outside [0, 1]")
        return Grade(score, GRADED)

    return grade, hashlib.sha256(source.encode()).hexdigest()[:16]


class RowsTask:
    """Rows with a question and an answer field.

    `answer_pattern` (a regular expression with one group) takes the answer out of a longer text,
    as in "#### (.+)". `grader` is "exact", "numeric", or "module:function" called with (answer,
    text) and returning a reward in [0, 1]. Errors: TaskError naming the file, line and field.
    """

    def __init__(
        self,
        *,
        path: str,
        question_field: str = "question",
        answer_field: str = "answer",
        answer_pattern: str = "",
        grader: str = "exact",
        system_prompt: str = "",
    ):
        self._path = Path(path).expanduser()
        self._fields = question_field, answer_field
        self._pattern = re.compile(answer_pattern) if answer_pattern else None
        self._system_prompt = system_prompt
        builtin: dict[str, tuple[Grader, str]] = {
            "exact": (grade_exact, "rows exact 1"),
            "numeric": (grade_numeric, "rows numeric 2"),
        }
        self._numeric = grader == "numeric"
        if grader in builtin:
            self._grade, self.version = builtin[grader]
            self.in_place = True
        else:
            self._grade, source = _function_grader(grader)
            self.version = f"rows {grader} {source}"

    def examples(self) -> Sequence[Example]:
        question_field, answer_field = self._fields
        found: list[Example] = []
        for place, row in read_file(self._path):
            for field in self._fields:
                if row.get(field) in (None, ""):
                    raise lacking(place, row, field)
            answer = str(row[answer_field])
            if self._pattern:
                match = self._pattern.search(answer)
                if not match or match.group(1) is None:
                    raise TaskError(
                        f"{place}: {answer_field!r} does not match {self._pattern.pattern!r}"
                    )
                answer = match.group(1)
            found.append(Example(str(len(found)), str(row[question_field]), answer.strip()))
        return found

    def prompt(self, example: Example) -> Messages:
        return chat(self._system_prompt, example.question)

    def reward(self, example: Example, text: str) -> Grade:
        try:
            return self._grade(example.answer, text)
        except Exception as error:  # noqa: BLE001 a grader may be the user's code: its failure is an outcome
            return Grade.failed(error)

    def answer(self, example: Example, text: str) -> str | None:
        """The value of the number that a text gives, or the text, for any other grader."""
        return numbers.said_value(text) if self._numeric else text.strip()
