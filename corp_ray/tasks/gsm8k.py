r"""GSM8K (openai/gsm8k): word problems whose answer is a number, asked for in \boxed{}.

Graded is the number that a text gives (see numbers.py: which one counts, what is equal), so that
no row needs a child process.
"""

from __future__ import annotations

from collections.abc import Sequence

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import answers, numbers, questions
from corp_ray.tasks.sources import Upstream

UPSTREAM = Upstream("openai/gsm8k", subset="main", split="train", folder="gsm8k")


class Gsm8kTask(questions.BoxedFamily):
    """Rows with `question` and `answer` (the number after ####), or `prompt` and `reward_model`.

    Errors: TaskError naming the row and the field.
    """

    in_place = True
    upstream = UPSTREAM
    version = "gsm8k 1"

    def examples(self) -> Sequence[Example]:
        found: list[Example] = []
        for place, row in self._rows():
            question, answer = questions.question_and_truth(place, row, "question", "answer")
            number = answers.after_hashes(answer) or answer
            if numbers.read(number) is None:
                raise TaskError(f"{place}: the answer {number[-60:]!r} is no number after ####")
            solution = answer.rpartition("####")[0].strip()
            found.append(Example(str(len(found)), question, number, solution or None))
        return found

    def reward(self, example: Example, text: str) -> Grade:
        wanted = numbers.read(example.answer)
        if wanted is None:
            return Grade(0.0, VERIFIER_ERROR)
        said, anything, boxed = numbers.said(text)
        if not anything:
            return Grade(0.0, WRONG_FORMAT, float(boxed))
        right = said is not None and numbers.same(wanted, said)
        return Grade(float(right), GRADED, float(boxed))

    def answer(self, example: Example, text: str) -> str | None:
        return numbers.said_value(text)
