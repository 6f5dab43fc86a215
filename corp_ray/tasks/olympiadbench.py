r"""OlympiadBench's open-ended mathematics in English, text only (Hothan/OlympiadBench,
OE_TO_maths_en_COMP): one or several final answers, asked for in one \boxed{}.

`final_answer` holds one text or several, `is_multiple_answer` says whether commas in them part
answers, `error` is the absolute error that is allowed (one, or one for each answer, with commas),
`unit` what the answer is measured in. Rows with images are refused. Rows that the data set marks
for people to judge (`answer_type` Need_human_evaluate) are left out, and a log line counts them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import Example, Grade
from corp_ray.tasks import Messages, latex, questions
from corp_ray.tasks.mathematics import MathematicsFamily
from corp_ray.tasks.sources import Upstream, lacking

UPSTREAM = Upstream(
    "Hothan/OlympiadBench", subset="OE_TO_maths_en_COMP", split="train", folder="olympiadbench"
)
_SEVERAL = (
    "Solve the problem step by step. State all final answers at the end in one box, separated by "
    "commas: \\boxed{ANSWER, ANSWER}."
)
_log = logging.getLogger(__name__)


class OlympiadBenchTask(MathematicsFamily):
    """Rows with `question`, `final_answer` and, where there are any, `is_multiple_answer`, `unit`,
    `answer_type`, `error` and `context` (put before the question).

    Errors: TaskError naming the row and the field, or the missing package.
    """

    kind = "olympiadbench"
    upstream = UPSTREAM

    def examples(self) -> Sequence[Example]:
        found: list[Example] = []
        left_out = 0
        for place, row in self._rows():
            if row.get("answer_type") == "Need_human_evaluate":
                left_out += 1
                continue
            found.append(_example(str(len(found)), place, row))
        if left_out:
            _log.warning("%d rows left out: their answers are for people to judge", left_out)
        return found

    def prompt(self, example: Example) -> Messages:
        several = len(example.data["answers"]) > 1
        instruction = _SEVERAL if several else questions.BOXED
        if example.data["unit"]:
            instruction += f" The unit is {example.data['unit']}; leave it out of the box."
        return questions.ask(self._system_prompt, example.question, instruction)

    def gold(self, example: Example) -> str:
        return questions.worked("", ", ".join(example.data["answers"]))

    def reward(self, example: Example, text: str) -> Grade:
        return self._mathematics.grade(example.data["answers"], text, example.data["errors"])


def _example(number: str, place: str, row: dict[str, Any]) -> Example:
    if any(row.get(name) is not None for name in row if name.startswith("image")):
        raise TaskError(f"{place}: has an image; expected rows of text alone (OE_TO_maths_en_COMP)")
    question = questions.text_of(place, row, "question")
    context = str(row.get("context") or "").strip()
    given = row.get("final_answer")
    written = [given] if isinstance(given, str) else list(given or [])
    answers = [latex.clean(str(answer)) for answer in written]
    if row.get("is_multiple_answer"):
        answers = [part for answer in answers for part in latex.split(answer, (",", ";"))]
    if not answers or not all(answers):
        raise lacking(place, row, "final_answer")
    unit = str(row.get("unit") or "").strip().strip("$")
    data = {"answers": answers, "errors": _errors(place, row.get("error")), "unit": unit}
    return Example(number, f"{context}\n\n{question}".strip(), ", ".join(answers), data)


def _errors(place: str, given: Any) -> list[float | None]:
    """Absolute errors, none allowed where a part is empty."""
    if given is None or not str(given).strip():
        return []
    try:
        parts = [part.strip() for part in str(given).split(",")]
        found = [float(part) if part else None for part in parts]
    except ValueError as reason:
        raise TaskError(f"{place}: 'error' is {given!r}: expected numbers") from reason
    if any(error is not None and not 0 <= error < 1e6 for error in found):
        raise TaskError(f"{place}: 'error' is {given!r}: expected numbers of 0 or more")
    return found
