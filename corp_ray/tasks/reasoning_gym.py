"""Any procedural dataset of the reasoning-gym package, with its own verifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import Messages, chat, numbers
from corp_ray.tasks.grading import last_number


class ReasoningGymTask:
    """Items 0..size of `reasoning_gym.create_dataset(dataset, seed=..., size=..., **arguments)`.

    `answer` says what of a text is handed to the verifier: "text" (stripped) or "last_number".
    `partial_credit` False counts only a full score. Errors: TaskError for a missing package, an
    unknown dataset or arguments that it refuses.
    """

    def __init__(
        self,
        *,
        dataset: str,
        arguments: Mapping[str, Any],
        size: int,
        seed: int,
        system_prompt: str = "",
        answer: str = "text",
        partial_credit: bool = True,
    ):
        try:
            import reasoning_gym
        except ImportError as error:
            raise TaskError(
                "task.kind='reasoning_gym' needs the package: pip install 'corp-ray[demo]'"
            ) from error
        try:
            self._dataset = reasoning_gym.create_dataset(
                dataset, seed=seed, size=size, **dict(arguments)
            )
        except (ValueError, TypeError, AssertionError) as error:
            raise TaskError(
                f"task.dataset={dataset!r} with task.arguments={json.dumps(dict(arguments))}: {error}"
            ) from error
        self._size = size
        self._system_prompt = system_prompt
        self._answer = answer
        self._partial_credit = partial_credit
        version = metadata.version("reasoning-gym")
        reader = "last_number 2" if answer == "last_number" else answer
        self.version = f"reasoning_gym {version} {dataset} {reader} partial={partial_credit}"

    def examples(self) -> Sequence[Example]:
        entries = (self._dataset[i] for i in range(self._size))
        return [
            Example(str(i), str(entry["question"]), str(entry["answer"]), entry)
            for i, entry in enumerate(entries)
        ]

    def prompt(self, example: Example) -> Messages:
        return chat(self._system_prompt, example.question)

    def reward(self, example: Example, text: str) -> Grade:
        said = last_number(text) if self._answer == "last_number" else text.strip()
        if not said:
            return Grade(0.0, WRONG_FORMAT)
        try:
            score = float(self._dataset.score_answer(said, example.data))
        except Exception as error:  # noqa: BLE001 the verifier is foreign code: its failure is an outcome
            return Grade.failed(error)
        if not 0.0 <= score <= 1.0:
            return Grade(0.0, VERIFIER_ERROR)
        return Grade(score if self._partial_credit else float(score >= 1.0), GRADED)

    def answer(self, example: Example, text: str) -> str | None:
        """The text, or the value of its last number, as `answer` of the task says."""
        if self._answer != "last_number":
            return text.strip()
        number = numbers.last_number(text)
        return None if number is None else str(number.value)
