r"""Questions and answers of published rows, and the form in which a final answer is asked for.

Besides its own columns a family's row may have `prompt` (a text or chat messages) and
`reward_model` with `ground_truth`, as RandOpt and verl write them. The instruction that such a
prompt ends with asks for another form of answer than ours and is taken off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import Example
from corp_ray.tasks import Messages, chat
from corp_ray.tasks.sources import Family, Row, lacking

BOXED = "Solve the problem step by step. State the final answer at the end as \\boxed{ANSWER}."
_INSTRUCTION = re.compile(
    r"\s*Let['’]s think step by step and output the final answer\b[^\n]{0,40}\s*$"
)


def ask(system_prompt: str, question: str, instruction: str = BOXED) -> Messages:
    """The messages of a question whose answer is asked for in a box."""
    return chat(system_prompt, f"{question}\n\n{instruction}")


def worked(solution: str, answer: str) -> str:
    """A right answer as the prompt asks for it, after the published solution where there is one."""
    return f"{solution}\n\\boxed{{{answer}}}".lstrip()


class BoxedFamily(Family):
    """Families whose answer is asked for in one box, after the example's question. An example's
    `data` is the published solution, for `gold` alone."""

    def prompt(self, example: Example) -> Messages:
        return ask(self._system_prompt, example.question)

    def gold(self, example: Example) -> str:
        return worked(example.data or "", example.answer)


def text_of(place: str, row: Row, field: str) -> str:
    """The text in a field. Errors: TaskError naming the row and the field."""
    value = row.get(field)
    if value is None or not str(value).strip():
        raise lacking(place, row, field)
    return str(value).strip()


def question_and_truth(
    place: str, row: Row, question_field: str, answer_field: str
) -> tuple[str, str]:
    """Question and right answer from a family's own columns, or from `prompt` and `reward_model`.

    Errors: TaskError naming the row and the field that is missing.
    """
    if question_field in row or "prompt" not in row:
        return text_of(place, row, question_field), text_of(place, row, answer_field)
    truth = row.get("reward_model")
    if not isinstance(truth, dict):
        raise TaskError(f"{place}: no 'reward_model' with 'ground_truth' beside 'prompt'")
    return _asked(place, row["prompt"]), text_of(place, truth, "ground_truth")


def _asked(place: str, prompt: Any) -> str:
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        said = [m.get("content") for m in prompt if isinstance(m, dict) and m.get("role") == "user"]
        prompt = said[-1] if said else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise TaskError(f"{place}: 'prompt' holds no question: expected a text or chat messages")
    return _INSTRUCTION.sub("", prompt).strip()
