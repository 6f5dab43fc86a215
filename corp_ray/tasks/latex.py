r"""The shape of a mathematical answer: a list, tuple, interval, matrix, relation, text or expression.

Shapes are read from LaTeX as people and models write it, without evaluating anything. What an
expression is worth is left to whoever compares two shapes (mathematics_child.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corp_ray.tasks import answers

# kind of a shape -> what its items are
#   list        parts whose order means nothing: 1, 2 and \{1, 2\}
#   tuple       parts in order; `mark` holds the brackets: (1, 2) [1, 2] (1, 2]
#   union       shapes joined by \cup
#   matrix      cells row by row; `mark` is the number of rows
#   assignment  one part; `mark` is the name: x = 5
#   relation    left and right side; `mark` is the sign: =, <, \leq, \neq
#   text        nothing; `mark` is the text in lower case
#   expression  nothing; `mark` is the LaTeX
KINDS = ("list", "tuple", "union", "matrix", "assignment", "relation", "text", "expression")


@dataclass(frozen=True)
class Shape:
    kind: str
    mark: str = ""
    items: tuple[Shape, ...] = ()
    name: str = ""  # of the variable, where an interval was written as a relation


_CHARACTERS = {
    **{"−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "⋅": "\\cdot "},
    **{
        "≤": "\\leq ",
        "≥": "\\geq ",
        "≠": "\\neq ",
        "≈": "\\approx ",
        "∈": "\\in ",
        "∞": "\\infty ",
    },
    **{
        "π": "\\pi ",
        "θ": "\\theta ",
        "∪": "\\cup ",
        "∅": "\\emptyset ",
        "±": "\\pm ",
        "°": "^\\circ ",
    },
    **{"²": "^2", "³": "^3", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}"},
    **{"\u00a0": " ", "\u2009": " ", "\u202f": " ", "’": "'", "′": "'"},
}
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\w+))")
_REPLACED: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), by)
    for pattern, by in [
        (r"(?<=\d)(?:\{,\}|,?\\[,!]\s*)(?=\d{3}(?!\d))", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:left|right|[bB]ig{1,2}[lrm]?)\s*(?:\.|(?=[()\[\]|{}\\/<>]))", ""),
        (
            r"(?<!\\)\\(?:[,;:!> ]|q?quad(?![a-zA-Z])|displaystyle(?![a-zA-Z])|limits(?![a-zA-Z]))|~",
            " ",
        ),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:leqslant|le)(?![a-zA-Z])", r"\\leq"),
        (r"\\(?:geqslant|ge)(?![a-zA-Z])", r"\\geq"),
        (r"\\(?:lt)(?![a-zA-Z])", "<"),
        (r"\\(?:gt)(?![a-zA-Z])", ">"),
        (r"\\ne(?![a-zA-Z])", r"\\neq"),
        (r"<=", r"\\leq "),
        (r">=", r"\\geq "),
        (r"!=", r"\\neq "),
        (
            r"\\(?:mathrm|textrm|textbf|mathbf|mbox|textit|mathit|textnormal|operatorname)(?=\s*\{)",
            r"\\text",
        ),
        (r"\\(?:langle)(?![a-zA-Z])", "("),
        (r"\\(?:rangle)(?![a-zA-Z])", ")"),
        (r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\\degree(?![a-zA-Z])", r"^\\circ "),
        (r"\*\*", "^"),
        (r"\\\$|\$", ""),
        (r"\\(?:varnothing)(?![a-zA-Z])", r"\\emptyset"),
    ]
]
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_LEADING_ZERO = re.compile(r",0\d\d")
_JOINER = re.compile(
    r",?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
_UNIT = re.compile(
    r"\s*\\text\s*\{(?!\s*(?:and|or|if|for|when|where|not|mod|[ap]\.?\s*m)\b)[^{}\d=<>]*\}"
    r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?\s*$"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ\s*")
_NAME = re.compile(
    r"(?:[a-zA-Z]|\\[a-zA-Z]+|\\text\s*\{[^{}]*\})+(?:_(?:\w|\{[^{}]*\}))?'*"
    r"(?:\^\{-1\})?(?:\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?"
)
_SIGNS = ("=", "<", ">", "\\leq", "\\geq", "\\neq", "\\approx")
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
_MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_WORDS = re.compile(r"[^\W\d_]+(?:[\s-]+[^\W\d_]+)*")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_TIME = re.compile(r"\d{1,2}\s*:\s*\d\d(?!\d)[^\d]*")
_SHORT_WORDS = frozenset(["no", "yes", "odd", "dne"])
_COMMANDS = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPENING, _CLOSING = {"(", "[", "{", "\\{"}, {")", "]", "}", "\\}"}


def clean(text: str) -> str:
    """An answer in one spelling: without a box, formula marks, sizes, spaces of LaTeX, units."""
    text = answers.box(text) or text
    for character, command in _CHARACTERS.items():
        if character in text:
            text = text.replace(character, command)
    text = _REPEATING.sub(_repeated, text)
    text = _ROOT.sub(lambda m: "\\sqrt{" + (m.group(1) or m.group(2)) + "}", text)
    text = text.replace("\\(", " ").replace("\\)", " ") if "\\(" in text else text
    if text.lstrip().startswith("\\[") and text.rstrip().endswith("\\]"):
        text = text.strip()[2:-2]
    for pattern, by in _REPLACED:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).rstrip(" .,;:*").lstrip(" ,;:*")
    if text.startswith("\\text") and "}" not in text[:-1]:
        return text  # a text alone is no unit
    without = _UNIT.sub("", text)
    text = without if without.strip(" ({[") else text
    if "\\circ" in text:
        turned = r"(\1 \\cdot \\frac{\\pi}{180})" if _TRIGONOMETRIC.search(text) else r"\1"
        text = _DEGREES.sub(turned, text)
    return text.rstrip(" .,;:").lstrip(" ,;:")


def _repeated(match: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, once, again = match.groups()
    if len(match.group()) > 100:
        return match.group()
    below = (10 ** len(again) - 1) * 10 ** len(once)
    above = int(f"{whole}{once}{again}") - int(f"0{whole}{once}")
    return f"\\frac{{{above}}}{{{below}}}"


def depth(text: str) -> int:
    """How deep brackets nest."""
    deepest = level = 0
    for token in _COMMANDS.findall(text):
        level += (token in _OPENING) - (token in _CLOSING)
        deepest = max(deepest, level)
    return deepest


def split(text: str, marks: tuple[str, ...]) -> list[str]:
    """The parts of a text between marks that stand outside of all brackets and environments."""
    return _split(text, marks)[0]


def _split(text: str, marks: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The parts and the marks between them."""
    parts, found, level, start, place, environment = [], [], 0, 0, 0, 0
    for token in _COMMANDS.findall(text):
        if token == "\\begin":
            environment += 1
        elif token == "\\end":
            environment -= 1
        elif token in _OPENING:
            level += 1
        elif token in _CLOSING:
            level = max(level - 1, 0)
        elif token in marks and level == 0 and environment <= 0:
            parts.append(text[start:place])
            found.append(token)
            start = place + len(token)
        place += len(token)
    return [part.strip() for part in [*parts, text[start:]]], found


def read(text: str, *, thousands: bool = True) -> Shape:
    """The shape of a cleaned answer. `thousands` False takes every comma for one between parts."""
    text = text.strip()
    inner = re.sub(r"^[a-zA-Z](?:_\w)?\s*\\in(?![a-zA-Z])\s*", "", text)
    if inner != text and inner:
        text = inner
    joined = _JOINER.sub(",", text) if not _is_text(text) else text
    parts = [part for part in split(_merged(joined, thousands), (",", ";")) if part]
    if len(parts) > 1:
        return Shape("list", "", tuple(p for part in parts for p in _spread(_one(part))))
    spread = _spread(_one(parts[0] if parts else joined))
    return spread[0] if len(spread) == 1 else Shape("list", "", spread)


def _merged(text: str, thousands: bool) -> str:
    """Without thousands separators: everywhere outside of brackets, inside only where a zero leads
    (1,000), since (100,200) is a pair."""
    if not thousands or "," not in text:
        return text

    def merge(match: re.Match[str]) -> str:
        inside = text[: match.start()].count("(") + text[: match.start()].count("[")
        inside -= text[: match.start()].count(")") + text[: match.start()].count("]")
        if inside > 0 and not _LEADING_ZERO.search(match.group()):
            return match.group()
        return match.group().replace(",", "")

    return _THOUSANDS.sub(merge, text)


def _spread(shape: Shape) -> tuple[Shape, ...]:
    r"""The two values of a \pm b, or the shape alone; parts of a set instead of the set."""
    if shape.kind == "list":
        return shape.items
    if shape.kind == "expression" and len(_PLUS_MINUS.findall(shape.mark)) == 1:
        left, right = _PLUS_MINUS.split(shape.mark)
        return tuple(Shape("expression", f"{left}{sign}{right}".strip()) for sign in "+-")
    if shape.kind == "assignment" and len(both := _spread(shape.items[0])) > 1:
        return tuple(Shape("assignment", shape.mark, (value,)) for value in both)
    return (shape,)


def _is_text(text: str) -> bool:
    if text.startswith("\\text") and re.fullmatch(r"\\text\s*\{[^{}]*\}", text):
        return not re.search(r"\d", text)
    if not _WORDS.fullmatch(text):
        return False
    words = re.findall(r"[^\W\d_]+", text)
    return any(len(word) > 3 or word.lower() in _SHORT_WORDS for word in words)


def _one(text: str) -> Shape:
    """The shape of what holds no comma outside of brackets."""
    if _is_text(text):
        return Shape("text", plain_text(text))
    if _TIME.fullmatch(text):
        return Shape("text", plain_text(text).replace(" ", "").replace(".", ""))
    pieces = split(text, ("\\cup",))
    if len(pieces) > 1:
        return Shape("union", "", tuple(_one(piece) for piece in pieces))
    matrix = _MATRIX.fullmatch(text)
    if matrix and matrix.group(1) != "vmatrix":
        rows = [row for row in matrix.group(2).split("\\\\") if row.strip()]
        cells = [cell for row in rows for cell in split(row, ("&",))]
        return Shape("matrix", str(len(rows)), tuple(_one(cell) for cell in cells))
    bracketed = _bracketed(text)
    return bracketed if bracketed is not None else _related(text)


def _bracketed(text: str) -> Shape | None:
    """A tuple, interval or set, where one pair of brackets holds the whole text."""
    opening = text[:2] if text.startswith("\\{") else text[:1]
    closing = text[-2:] if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    level, place = 0, 0
    for token in _COMMANDS.findall(text):
        place += len(token)
        level += (token in _OPENING) - (token in _CLOSING)
        if level == 0 and place < len(text):
            return None
    inside = text[len(opening) : len(text) - len(closing)]
    parts = split(inside, (",", ";"))
    if opening == "\\{" and closing == "\\}":
        return Shape("list", "", tuple(p for part in parts if part for p in _spread(_one(part))))
    if len(parts) < 2:
        alone = opening == "(" and closing == ")" and inside.strip()
        return _one(inside.strip()) if alone else None
    mark = opening + closing if len(parts) == 2 else "()"
    return Shape("tuple", mark, tuple(_one(part) for part in parts))


def _related(text: str) -> Shape:
    """An assignment, a relation, an interval written as one, or an expression."""
    sides, signs = _split(text, _SIGNS)
    if not signs or not all(sides):
        return Shape("expression", text)
    if signs[-1] == "\\approx":
        named = _NAME.fullmatch(sides[-2]) is not None
        return _related(" = ".join(sides[:-1] if not named else sides))
    values = [Shape("expression", side) for side in sides]
    if set(signs) == {"="}:
        if _NAME.fullmatch(sides[0]):
            return Shape("assignment", "".join(sides[0].split()), (_one(sides[-1]),))
        return Shape("relation", "=", (values[-2], values[-1]))
    if len(signs) == 1 and signs[0] in _FLIPPED:
        return _half_line(sides, signs[0], values)
    same_way = {"<", "\\leq"}, {">", "\\geq"}
    if len(signs) == 2 and _NAME.fullmatch(sides[1]) and any(set(signs) <= way for way in same_way):
        low, high, first, last = values[0], values[2], signs[0], signs[1]
        if signs[0] in same_way[1]:
            low, high, first, last = high, low, last, first
        mark = ("[" if "eq" in first else "(") + ("]" if "eq" in last else ")")
        return Shape("tuple", mark, (low, high), sides[1])
    if len(signs) == 1:
        return Shape("relation", signs[0], tuple(values))
    return Shape("expression", text)


def _half_line(sides: list[str], sign: str, values: list[Shape]) -> Shape:
    left, right = values
    if _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        left, right, sign = right, left, _FLIPPED[sign]
    elif not _NAME.fullmatch(sides[0]):
        return Shape("relation", sign, (left, right))
    infinity = Shape("expression", "\\infty"), Shape("expression", "-\\infty")
    if sign in (">", "\\geq"):
        return Shape("tuple", "[)" if "eq" in sign else "()", (right, infinity[0]), left.mark)
    return Shape("tuple", "(]" if "eq" in sign else "()", (infinity[1], right), left.mark)


def plain_text(text: str) -> str:
    r"""A text in lower case without \text{}, punctuation at its ends, a plural s."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    words = " ".join(text.lower().split()).strip(" .,;:()\"'")
    return words[:-1] if len(words) > 3 and words.endswith("s") else words


def spelling(text: str) -> str:
    """What two answers that are written alike have in common: no spaces but between words, and in
    the list 1, 200, which is not the number 1,200."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d,)\s+(?=\d{3}(?!\d))", ", ,", text)
    return re.sub(r"\{(\w)\}(?!\w)", r"\1", re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text))
