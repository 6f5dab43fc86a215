"""Arithmetic that a model wrote, read by a parser of our own: no eval, exact values.

    sum     = ["-"] product {("+" | "-") product}
    product = factor {("*" | "/") factor}
    factor  = number | "(" sum ")"

Whole numbers only. A minus sign stands at the start of a sum, as on paper ("-5 + 29"), not after
another operator. Not read: exponents, "//", decimals, "2(3)", names. Length, depth and digits are
limited, so that every text is read in bounded time and memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LENGTH = 400  # characters of an expression
DEPTH = 40  # brackets inside each other
DIGITS = 9  # of one number

# Signs of print and of LaTeX that people write for the four operators, and LaTeX's delimiters.
_SIGNS = str.maketrans(
    dict.fromkeys("\u00d7\u22c5\u00b7\u2217", "*")
    | dict.fromkeys("\u00f7\u2215", "/")
    | dict.fromkeys("\u2212\u2013", "-")
)
_LATEX = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": ""}
_LATEX |= dict.fromkeys([r"\(", r"\)", r"\[", r"\]"], "")
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


class NotArithmetic(ValueError):
    """A text is not an expression of the grammar above."""


@dataclass(frozen=True)
class Expression:
    """The numbers of an expression in their order, and its value (None: divides by zero)."""

    numbers: tuple[int, ...]
    value: Fraction | None


def parse(text: str) -> Expression:
    """The expression that `text` is. Errors: NotArithmetic."""
    if len(text) > LENGTH:
        raise NotArithmetic(f"longer than {LENGTH} characters")
    return _Reader(_tokens(_plain(text))).expression()


def _plain(text: str) -> str:
    """One way to write each operator: the signs of print and LaTeX, and x between numbers."""
    for name, sign in _LATEX.items():
        text = re.sub(re.escape(name) + r"(?![a-z])", sign, text)
    return re.sub(r"(?<=[0-9)\s])[xX](?=[0-9(\s])", "*", text.translate(_SIGNS))


def _tokens(text: str) -> list[str]:
    text, found, at = text.strip(), [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match or len(match[1]) > DIGITS:
            raise NotArithmetic(f"cannot read {text[at : at + 20]!r}")
        found.append(match[1])
        at = match.end()
    return found


class _Reader:
    """Recursive descent over tokens; `DEPTH` bounds the recursion."""

    def __init__(self, tokens: list[str]):
        self._tokens, self._at, self._depth = tokens, 0, 0
        self._numbers: list[int] = []

    def expression(self) -> Expression:
        value = self._sum()
        if self._at < len(self._tokens):
            raise NotArithmetic(f"{self._tokens[self._at]!r} where an operator was expected")
        return Expression(tuple(self._numbers), value)

    def _takes(self, *signs: str) -> str:
        """The next token when it is one of `signs`, else ""."""
        if self._at < len(self._tokens) and self._tokens[self._at] in signs:
            self._at += 1
            return self._tokens[self._at - 1]
        return ""

    def _sum(self) -> Fraction | None:
        negative = self._takes("-")
        value = self._product()
        value = -value if negative and value is not None else value
        while sign := self._takes("+", "-"):
            right = self._product()
            if value is not None and right is not None:
                value = value + right if sign == "+" else value - right
            else:
                value = None
        return value

    def _product(self) -> Fraction | None:
        value = self._factor()
        while sign := self._takes("*", "/"):
            right = self._factor()
            if value is None or right is None or (sign == "/" and right == 0):
                value = None
            else:
                value = value * right if sign == "*" else value / right
        return value

    def _factor(self) -> Fraction | None:
        if self._takes("("):
            self._depth += 1
            if self._depth > DEPTH:
                raise NotArithmetic(f"more than {DEPTH} brackets inside each other")
            value = self._sum()
            if not self._takes(")"):
                raise NotArithmetic("a bracket is not closed")
            self._depth -= 1
            return value
        if self._at >= len(self._tokens) or not self._tokens[self._at].isdigit():
            raise NotArithmetic("a number is missing")
        self._at += 1
        self._numbers.append(int(self._tokens[self._at - 1]))
        return Fraction(self._numbers[-1])
