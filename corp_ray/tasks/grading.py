"""Plain graders: the text itself, or the number that it gives as its answer (see numbers.py).

Leaves out LaTeX, expressions and model-written code.
"""

from __future__ import annotations

import re

from corp_ray.records import GRADED, WRONG_FORMAT, Grade
from corp_ray.tasks import numbers

_DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)")


def last_number(text: str) -> str | None:
    """The last number in a text without separators and currency signs, or None: also where it is
    part of an expression (12-5, sqrt(2), x^2) or of a choice (2 or 3).

    A minus that stands after a number is an operator, else it is a sign.
    """
    token = numbers.last_token(text) or ""
    number = numbers.read(token)
    if number is None:
        return None
    written = token.replace(",", "").replace("$", "").rstrip(".% ")
    return written if _DECIMAL.fullmatch(written) else str(number.value)


def grade_numeric(answer: str, text: str) -> Grade:
    """1 when the number that `text` gives as its answer equals the one in `answer`; a text without
    a number: wrong format. Errors: ValueError for an answer that is no number."""
    wanted, _, _ = numbers.said(answer)
    if wanted is None:
        raise ValueError(f"the answer {answer!r} holds no number")
    said, anything, _ = numbers.said(text)
    if not anything:
        return Grade(0.0, WRONG_FORMAT)
    return Grade(float(said is not None and numbers.same(wanted, said)), GRADED)


def grade_exact(answer: str, text: str) -> Grade:
    """1 when the texts are equal but for white space at the ends; an empty text: wrong format."""
    if not text.strip():
        return Grade(0.0, WRONG_FORMAT)
    return Grade(float(text.strip() == answer.strip()), GRADED)
