r"""Plain numbers as people and models write them, compared exactly.

A plain number is digits with or without thousands separators, decimals, a sign, a currency, a
percent sign, a unit, a scale (million, 1.5e3, 1.5 \times 10^3), or a fraction of two such numbers
(3/4, \frac{3}{4}, 1\frac{3}{4}). Everything else is none: sqrt(2), 9**9**9, 1,2, 2x. No arithmetic
is done but the exact division of a fraction, so that no text costs time.

Which number of a text counts: the one in the last \boxed{...}; without a box the one after the
last ####; without that the first one after the last "answer is" or "Answer:" (after its last "=");
else the last one of the text. Where an expression or a choice ("2 or 3") stands in that place, it
is not searched for numbers, and neither is the rest of the text.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from corp_ray.tasks import answers

_DIGITS = 400  # a longer number, or one with a larger exponent, is not read
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d*)?|\.\d+"
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = "|".join(_SCALES)
_POWER = r"(?:\\times|\\cdot|×|·|\*)\s*10\s*(?:\^|\*\*)\s*\{?\s*(?P<power>[-+]?\d{1,4})\s*\}?"
_PERCENT = r"(?P<percent>\\?%|\bpercent\b)?"
_TEXT = r"\\(?:text|mbox|mathrm|textbf|textrm|operatorname)\s*\{(?P<text>[^{}\d]*)\}"
_DEGREES = r"\^?\s*\{?\s*(?:\\circ|\\degree|°|º)\s*\}?"
_PLAIN = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>[$€£¥]?)\s*(?P<inner>[-+]?)\s*"
    rf"(?:(?P<whole>\d+)(?:\s+|\s*(?=\\))(?P<top>\d+)\s*/\s*(?P<bottom>\d+)"
    rf"|(?P<over>{_DECIMAL})\s*/\s*[$]?(?P<under>{_DECIMAL})"
    rf"|(?P<number>{_DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,12}})|\s*{_POWER})?)"
    rf"(?:\s*(?P<scale>{_SCALE})\b)?\s*{_PERCENT}\s*"
    rf"(?:{_DEGREES}|(?P<words>[^\W\d_²³]+(?: [^\W\d_]+|/[^\W\d_]+)*)|{_TEXT})?"
    r"(?P<order>\s*(?:\^\s*\{?\s*[23]\s*\}?|[²³]))?\s*\.?",
)
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*([\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))"
)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|mathbf|mathrm|mbox|boldsymbol|bm|displaystyle)\s*\{([^{}]*)\}"
)
_SPACES = re.compile(r"\\[,;:! ]|\{,\}\s*|~|\\quad|\\q?quad|\\displaystyle\b|\\(?:left|right)\b")
_THIN = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!]\s*|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_SPACED = re.compile(r"(?<=\d) (?=\d{3}(?: \d{3})*$)")  # 1 000 000
_SIGNS = str.maketrans("\u2212\u2013\uff0d\ufe63", "----")

# Units that may stand right at a number; others need a space and three letters, or \text{...}.
_UNITS = frozenset(
    (
        *("cm", "mm", "km", "ft", "yd", "mi", "in", "kg", "mg", "lb", "lbs", "oz", "ml"),
        *("hr", "hrs", "min", "mins", "sec", "secs", "mph", "kph", "am", "pm", "usd"),
        *("st", "nd", "rd", "th", "cents", "dollars"),
        *("years", "days", "hours", "minutes", "seconds"),
    )
)
_LETTERS = frozenset(["m", "g", "s", "h", "L", "l"])
# Words after a number that change it, or that show that something else follows.
_NO_UNIT = re.compile(
    r"\b(?:and|or|plus|minus|times|over|by|squared|cubed|factorial|dozen|half|to|not|mod|choose|"
    r"million|billion|thousand|hundred|trillion|percent|if|for|when|where|sqrt|sin|cos|tan|log|ln|"
    r"exp|pi|x|y|z|n|k|i|e)\b"
)


# Units that are told apart where both numbers have one; any other word after a number is ignored.
_MEASURES = {
    spelling: names.split()[0]
    for names in (
        "cm centimeter centimeters centimetre centimetres",
        "mm millimeter millimeters",
        "m meter meters metre metres",
        "km kilometer kilometers",
        "in inch inches",
        "ft foot feet",
        "yd yard yards",
        "mi mile miles",
        "g gram grams",
        "kg kilogram kilograms",
        "s sec second seconds",
        "min minute minutes",
        "h hr hour hours",
        "day days",
        "cent cents",
        "dollar dollars",
    )
    for spelling in names.split()
}


class Number(NamedTuple):
    """A value, whether a percent sign stood after it, and its unit where that is a known one (with
    its power, as in cm2)."""

    value: Fraction
    percent: bool = False
    unit: str = ""


def same(one: Number, other: Number) -> bool:
    """Equal in value, and in unit where both have one.

    A percent sign on one side alone divides by 100, or is taken for a unit where that can be meant:
    at values of 1 and more.
    """
    if one.unit and other.unit and one.unit != other.unit:
        return False
    if one.percent == other.percent:
        return one.value == other.value
    with_sign, without = (one, other) if one.percent else (other, one)
    if with_sign.value == without.value:
        return abs(without.value) >= 1 or not without.value
    return with_sign.value / 100 == without.value


def close(gold: Number, said: Number, tolerance: float | None) -> bool:
    """Equal, or no further apart than an absolute `tolerance`."""
    if same(gold, said):
        return True
    return tolerance is not None and abs(gold.value - said.value) <= Fraction(str(tolerance))


def read(text: str) -> Number | None:
    """The plain number that the whole of `text` is, or None."""
    text = text.strip()
    if len(text) > 2 * _DIGITS:
        return None
    if not text.isdecimal():
        text = _SPACED.sub("", _plain(text))
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    if not _is_unit(part["words"], part["text"], part["order"], match):
        return None
    value = _value(part)
    if value is None:
        return None
    signs = part["sign"] + part["inner"]
    if len(signs) > 1:
        return None
    if signs == "-":
        value = -value
    unit = _MEASURES.get((part["words"] or part["text"] or "").strip().lower(), "")
    power = "".join(c for c in part["order"] or "" if c in "23²³").translate({178: "2", 179: "3"})
    return Number(value, part["percent"] is not None, unit + power if unit else "")


def _plain(text: str) -> str:
    """Without emphasis, formula marks and what LaTeX has for spaces and fractions."""
    text = text.translate(_SIGNS).strip("*_` \t\n")
    if text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text.strip("$")
    if "\\" in text or "{" in text or not text.isascii():
        text = _THIN.sub("", text)
        for left, right in (("\\(", "\\)"), ("\\[", "\\]")):
            if text.startswith(left) and text.endswith(right):
                text = text[2:-2]
        text = text.replace("\\$", "$").strip()
        while wrapped := _WRAPPED.fullmatch(text):
            text = wrapped.group(1).strip()
        text = _FRACTION.sub(r" \1\2/\3\4", _SPACES.sub(" ", text))
    return " ".join(text.split()).strip("*_ ")


def _is_unit(words: str | None, text: str | None, order: str | None, match: re.Match[str]) -> bool:
    said = words or text or ""
    if order and not said:
        return False  # 5^2 is no number
    if _NO_UNIT.search(said.lower()):
        return False
    if text is not None or not words:
        return True
    first = words.split()[0].rstrip(".")
    if first.lower() in _UNITS:
        return True
    return len(first) > 2 and match.string[match.start("words") - 1] in " %"


def _value(part: dict[str, str | None]) -> Fraction | None:
    whole, over, number = part["whole"], part["over"], part["number"]
    if number is not None:
        value = _decimal(number)
        exponent = int(part["exponent"] or part["power"] or 0)
        if value is None or abs(exponent) > _DIGITS:
            return None
        if exponent:
            value *= Fraction(10) ** exponent
    else:
        top, bottom = (over, part["under"]) if over else (part["top"], part["bottom"])
        above, below = _decimal(top or ""), _decimal(bottom or "")
        if above is None or not below:
            return None
        value = above / below
        if whole is not None:
            value += int(whole)
    return value * 10 ** _SCALES[part["scale"]] if part["scale"] else value


def _decimal(digits: str) -> Fraction | None:
    if len(digits) > _DIGITS:
        return None
    before, _, after = digits.replace(",", "").partition(".")
    if not after:
        return Fraction(int(before))
    return Fraction(int(before + after), 10 ** len(after))


# --- a number within prose ---

_TOKEN = re.compile(
    rf"[-+]?[$€£¥]?[-+]?(?:\\[dt]?frac\s*\{{\s*[\d.,]+\s*\}}\s*\{{\s*[\d.,]+\s*\}}"
    rf"|\d+\s+\d+/\d+|(?:{_DECIMAL})(?:\s*/\s*[$]?(?:{_DECIMAL})|[eE][-+]?\d+)?)"
    rf"(?:\s*{_POWER})?(?:\s*(?:{_SCALE})\b)?(?:\s*\\?%|\s*percent\b)?"
)
_OPERAND = r"(?:[\d)\]}%]|(?<![^\W\d_])[^\W\d_])"
_OPERATOR = r"(?:\*{1,2}|\^|/|×|÷|·|\+|-|\\(?:cdot|times|div|pm))"
_FUNCTION = (
    r"(?:√|\b(?:sqrt|log|ln|sin|cos|tan|exp|abs)|(?<![^\W\d_])[a-zA-Z](?=\()|[_^]"
    r"|\\(?!boxed|fbox|text|math|approx)[a-zA-Z]+)"
)
_BEFORE = re.compile(
    rf"(?:{_OPERAND}\s*{_OPERATOR}\s*[(\[{{]*[-+]?|{_FUNCTION}\s*[(\[{{]+[-+]?|[\^_√]|\d[,:.]|[^\W_]"
    r"|\d\S*\s+(?:[^\W\d_]+\s+)?or\s+(?:[^\W\d_]+\s+)?)$"
)
_AFTER = re.compile(
    r"\s*(?:\^(?!\s*\{?\s*\\circ)|\*{1,2}|/|×|÷|·|\+|-|\\(?:cdot|times|div|pm))\s*[({\\]*[\w]"
    r"|\s*\\(?!text|mbox|mathrm|circ|degree|%|\$|[\])]|[,; !])[a-zA-Z]+|[({]\s*[-\d\w]|√"
    r"|,?\s*(?:or|and)\s+(?:[^\W\d_]+\s+)?[-+$]?\d|,\d|:\d|\s*dozen"
)
_WORDS = re.compile(r"\\[a-zA-Z]+|_\{?\w+\}?")
_ATTACHED = re.compile(r"[^\W\d_]+")
_WINDOW = 100


def last_number(text: str) -> Number | None:
    """The last number of a text; None where there is none or an expression stands there."""
    token = last_token(text)
    return read(token) if token else None


def last_token(text: str) -> str | None:
    """How the last number of a text is written; "" where that is part of an expression or a
    choice, None in a text without digits."""
    text = text[-20_000:].translate(_SIGNS)
    end = max((text.rfind(digit) for digit in "0123456789"), default=-1)
    if end < 0:
        return None
    start = max(end - _WINDOW, 0)
    window = text[start : end + _WINDOW]
    match = None
    for found in _TOKEN.finditer(window, 0, len(window)):
        match = found
    return _token(window, match) if match else ""


def first_token(text: str) -> str | None:
    """The same for the first number after the last "=" of a sentence."""
    text = text.translate(_SIGNS)[: 4 * _WINDOW].rpartition("=")[2]
    match = _TOKEN.search(text)
    return _token(text, match) if match else None


def _token(text: str, match: re.Match[str]) -> str:
    token, before, after = match.group(), text[: match.start()], text[match.end() :]
    if token[0] in "+-" and re.search(rf"{_OPERAND}\s*$", before):
        return ""  # an operator between two numbers
    stars = len(before) - len(before.rstrip("*_`"))
    if stars and not re.search(rf"{_OPERAND}\s*$", before.rstrip("*_`")):
        before, after = before.rstrip("*_`"), after.lstrip("*_`") if after[:1] in "*_`" else after
    if _BEFORE.search(before[-_WINDOW:]) or _AFTER.match(after):
        return ""
    attached = _ATTACHED.match(after)
    if attached and not token.endswith(("%", "percent")):
        unit = attached.group()
        if unit not in _LETTERS and unit.lower() not in _UNITS and len(unit) < 3:
            return ""
    return token.rstrip()


def _right_side(equation: str) -> Number | None:
    """The number after the last "=" of 6*3 = 18 or x = 18, where 2x = 18 and x^2 = 18 have none."""
    left, _, right = equation.rpartition("=")
    named = any(letter.isalpha() for letter in _WORDS.sub("", left))
    if named and re.search(r"[\d^*/+-]", left):
        return None
    return read(right)


def said_value(text: str) -> str | None:
    """The value of the number that a text gives as its answer, as an exact fraction ("3/4", "18");
    a percent sign and units are left out. None when it gives no number."""
    number, _, _ = said(text)
    return None if number is None else str(number.value)


def said(text: str) -> tuple[Number | None, bool, bool]:
    """The number that a text gives as its answer, whether anything stood in its place, and
    whether that was a box. See the module's words on which number counts."""
    boxed = answers.box(text)
    if boxed is not None:
        return read(boxed) or _right_side(boxed), True, True
    marked = answers.after_hashes(text)
    if marked is not None:
        return read(marked) or read(first_token(marked) or ""), True, False
    phrase = answers.after_phrase(text)
    if phrase is not None:
        number = read(phrase)
        if number is not None:
            return number, True, False
        token = first_token(phrase)
        if token is not None:
            return read(token), True, False
        return None, False, False
    token = last_token(text)
    return (read(token) if token else None), token is not None, False
