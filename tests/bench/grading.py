"""Grading: numeric answers on the fast path, against math-verify in the same process."""

import logging

from math_verify import parse, verify

from corp_ray.records import GRADED, Example
from corp_ray.tasks.gsm8k import Gsm8kTask
from tests.bench.rows import interleaved

_WORK = (
    "Janet sells 16 - 3 - 4 = 9 duck eggs a day. She makes 9 * 2 = $18 every day at the market.\n"
    "Per week that is 7 * 18 = 126 dollars, so after {weeks} weeks it comes to {weeks} * 126.\n"
)
_ENDS = (
    "The final answer is $\\boxed{{{answer}}}$.",
    "\\boxed{{\\${answer:,}}}",
    "#### {answer}",
    "The answer is {answer:,} dollars.",
    "So it is **{answer}**.",
)
_COUNT = 500


def _texts():
    for weeks in range(1, _COUNT + 1):
        end = _ENDS[weeks % len(_ENDS)].format(answer=126 * weeks)
        yield str(126 * weeks), _WORK.format(weeks=weeks) * 3 + end


def numeric_answers():
    """Answers per second and core: 500 texts of 600 characters, in five forms, all right."""
    texts = list(_texts())
    task = Gsm8kTask(path="unused")
    examples = [Example("0", "", answer) for answer, _ in texts]
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def ours():
        for example, (_, text) in zip(examples, texts, strict=True):
            grade = task.reward(example, text)
            if (grade.reward, grade.outcome) != (1.0, GRADED):
                raise ValueError(f"{text[-60:]!r}: {grade}")

    def other():
        for answer, text in texts[:100]:
            verify(
                parse(answer, parsing_timeout=None),
                parse(text, parsing_timeout=None),
                timeout_seconds=None,
            )

    mine, theirs = interleaved(ours, other, 3)
    ours_rate, other_rate = len(texts) / mine, 100 / theirs
    return {
        "name": "numeric_answers",
        "ours": ours_rate,
        "other": other_rate,
        "ratio": ours_rate / other_rate,
        "unit": "answers/s",
    }, "numbers in texts of 600 characters, one core, vs math-verify in process"
