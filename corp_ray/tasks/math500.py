r"""MATH-500 (HuggingFaceH4/MATH-500): competition problems, the answer asked for in \boxed{}."""

from __future__ import annotations

from collections.abc import Sequence

from corp_ray.records import Example, Grade
from corp_ray.tasks import answers, questions
from corp_ray.tasks.mathematics import MathematicsFamily
from corp_ray.tasks.sources import Upstream

UPSTREAM = Upstream("HuggingFaceH4/MATH-500", split="test", folder="math-500")


class Math500Task(MathematicsFamily):
    """Rows with `problem` and `answer`, or `prompt` and `reward_model`; `solution` is for
    jobs.doctor alone.

    Errors: TaskError naming the row and the field, or the missing package.
    """

    kind = "math500"
    upstream = UPSTREAM

    def examples(self) -> Sequence[Example]:
        found: list[Example] = []
        for place, row in self._rows():
            question, answer = questions.question_and_truth(place, row, "problem", "answer")
            answer, solution = answers.box(answer) or answer, str(row.get("solution") or "").strip()
            found.append(Example(str(len(found)), question, answer, solution or None))
        return found

    def reward(self, example: Example, text: str) -> Grade:
        return self._mathematics.grade([example.answer], text)
