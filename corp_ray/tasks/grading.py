"""Plain graders: the text itself, or the last number in it.

Leaves out LaTeX, expressions and model-written code. Numbers compare exactly as decimals, so
18, 18., 18.00, 1,000 and 1000 are read the way a person reads them.
"""

from __future__ import annotations

import re
from decimal import Decimal

from corp_ray.records import GRADED, WRONG_FORMAT, Grade

_NUMBER = re.compile(r"(?<![\w.])[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d+)?")


def last_number(text: str) -> str | None:
    """The last number in a text without separators and currency signs, or None.

    A minus that stands between two numbers ("12-5") is an operator; after a space or at the
    start it is a sign.
    """
    found = _NUMBER.findall(text.replace("\u2212", "-"))
    return found[-1].replace(",", "").replace("$", "") if found else None


def grade_numeric(answer: str, text: str) -> Grade:
    """1 when the last number of `text` equals the number in `answer`; no number: wrong format."""
    said, wanted = last_number(text), last_number(answer)
    if wanted is None:
        raise ValueError(f"the answer {answer!r} holds no number")
    if said is None:
        return Grade(0.0, WRONG_FORMAT)
    return Grade(float(Decimal(said) == Decimal(wanted)), GRADED)


def grade_exact(answer: str, text: str) -> Grade:
    """1 when the texts are equal but for white space at the ends; an empty text: wrong format."""
    if not text.strip():
        return Grade(0.0, WRONG_FORMAT)
    return Grade(float(text.strip() == answer.strip()), GRADED)
