"""Compares two mathematical answers; runs as a child process, since sympy may hang or run wild.

Shapes are compared part by part. Two expressions are equal when they have the same value wherever
they were tried: exact for rational numbers, else to 30 digits at random points where both are real
(Schwartz-Zippel). Where no value can be had, math-verify decides. Its own time limits are off: the
parent kills a child that is late.
"""

from __future__ import annotations

import logging
import random
import re
import resource
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import verify
from sympy.core.function import AppliedUndef

from corp_ray.child import serve
from corp_ray.tasks import latex, numbers
from corp_ray.tasks.latex import Shape

EQUAL, UNEQUAL, UNREADABLE = "equal", "unequal", "unreadable"
_MEMORY_BYTES = 4 << 30
_DIGITS = 30
_SMALL = sympy.Float("1e-25")
_POINTS, _ENOUGH = 10, 3
_MOST_PARTS = 40
_DEEPEST = 40  # brackets within brackets
# What sympy raises over expressions that it cannot work with.
_UNUSABLE = (
    *(AttributeError, TypeError, ValueError, NotImplementedError, RecursionError, ArithmeticError),
)
# Units and letters of either case are told apart in clean(); math-verify would drop both.
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_PRIME = re.compile(r"'+|\^\s*\{?\s*\\prime\s*\}?")  # would be dropped
_BASED = re.compile(r"([0-9A-Fa-f]+)_\{?(?:\\text\{)?(\d+|\w+)\}*")


# What the parser reads as something else: omitted terms, moduli, 1 000 as 1*0, 1.5.2 as 1.5*0.2, the
# greatest common divisor of two variables as 1. Alike in writing is all that such answers can be.
_MISREAD = re.compile(
    r"\\(?:[lcv]?dots[a-z]?|p?mod|bmod|equiv)(?![a-zA-Z])|…|\.\."
    r"|(?<!_)(?<!frac)(?<!frac )\d\s+[\d.]|\.\d+\s*\."
    r"|(?:gcd|lcm)\s*\}?\s*[({][^)}]*[a-zA-Z]"
)
_TRANSPOSED = re.compile(
    r"\^\s*(?:T\b|\{\s*T\s*\})"
)  # would be dropped, also where T is a variable


class _GoldError(Exception):
    """The right answer cannot be read."""


class _TextError(Exception):
    """The given answer cannot be read."""


def compare(gold: list[str], said: str, tolerances: list[float | None]) -> str:
    """EQUAL or UNEQUAL; UNREADABLE when the right answer is what cannot be read.

    `gold` holds the parts of the right answer (one string: it is taken apart), `tolerances` one
    absolute error for each part, or a single one for all.
    """
    said = latex.clean(said)
    cleaned = [latex.clean(part) for part in gold]
    if latex.spelling(said) == latex.spelling(", ".join(cleaned)):
        return EQUAL
    if latex.depth(said) > _DEEPEST:
        return UNEQUAL
    wanted = latex.read(cleaned[0]) if len(gold) == 1 else _listed(cleaned)
    readings = {latex.read(said)}
    if wanted.kind == "list":
        readings.add(latex.read(said, thousands=False))
    try:
        if any(_same(wanted, reading, tolerances) for reading in readings):
            return EQUAL
    except _GoldError:
        return UNREADABLE
    return UNEQUAL


def _listed(parts: list[str]) -> Shape:
    read = [latex.read(part) for part in parts]
    flat = [item for shape in read for item in (shape.items if shape.kind == "list" else (shape,))]
    return Shape("list", "", tuple(flat))


def _same(gold: Shape, said: Shape, tolerances: list[float | None]) -> bool:
    tolerance = tolerances[0] if tolerances else None
    if gold.kind == "assignment" and said.kind == "assignment":
        if gold.mark == said.mark:
            return _same(gold.items[0], said.items[0], tolerances)
        return _same_relation(_as_relation(gold), _as_relation(said))
    if gold.kind == "assignment" and said.kind != "relation":
        return _same(gold.items[0], said, tolerances)
    if said.kind == "assignment" and gold.kind != "relation":
        return _same(gold, said.items[0], tolerances)
    if "relation" in (gold.kind, said.kind):
        return _same_or_worked_out(_as_relation(gold), _as_relation(said), tolerances)
    if gold.kind != said.kind:
        if {gold.kind, said.kind} == {"text", "expression"}:
            return latex.plain_text(gold.mark) == latex.plain_text(said.mark)
        return False
    match gold.kind:
        case "text":
            return gold.mark == said.mark
        case "expression":
            return _same_value(gold.mark, said.mark, tolerance)
        case "list" | "union":
            return _same_parts(gold.items, said.items, tolerances)
    if gold.mark != said.mark or len(gold.items) != len(said.items):
        return False
    if gold.name and said.name and gold.name != said.name:
        return False
    pairs = zip(gold.items, said.items, strict=True)
    return all(_same(one, other, [tolerance]) for one, other in pairs)


def _same_parts(
    gold: tuple[Shape, ...], said: tuple[Shape, ...], tolerances: list[float | None]
) -> bool:
    """Each part of the one is a part of the other, in any order; in the given one where the right
    answer has names that the other leaves out (p=3, q=2)."""
    if len(gold) != len(said) or len(gold) > _MOST_PARTS:
        return False
    names = {part.mark for part in gold if part.kind == "assignment"}
    if len(names) > 1 and any(part.kind != "assignment" for part in said):
        return all(
            _same(part, other, tolerances[:1]) for part, other in zip(gold, said, strict=True)
        )
    left = list(said)
    for number, part in enumerate(gold):
        own = [tolerances[number]] if len(tolerances) == len(gold) else tolerances[:1]
        found = next((other for other in left if _same(part, other, own)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _as_relation(shape: Shape) -> Shape:
    if shape.kind != "assignment":
        return shape
    return Shape("relation", "=", (Shape("expression", shape.mark), shape.items[0]))


def _same_or_worked_out(gold: Shape, said: Shape, tolerances: list[float | None]) -> bool:
    """Two relations, or 6*3 = 18 where 18 is asked for: the sides must then be equal."""
    if gold.kind == said.kind:
        return _same_relation(gold, said)
    if gold.kind == "expression" and said.mark == "=":
        left, right = said.items
        return _same(gold, right, tolerances) and _same(left, right, [])
    return False


def _same_relation(gold: Shape, said: Shape) -> bool:
    """Left minus right is the same but for a factor: positive where the sign has a direction."""
    if {item.kind for item in (*gold.items, *said.items)} != {"expression"}:
        return False
    left, right = (_parsed(item.mark, _GoldError) for item in gold.items)
    try:
        given = [_parsed(item.mark, _TextError) for item in said.items]
        pairs = _values(_exact(left - right), _exact(given[0] - given[1]))
    except (_TextError, *_UNUSABLE):
        return False
    ratios = [first / second for first, second in pairs if second != 0 and first != 0]
    if len(ratios) < _ENOUGH or any(abs(r / ratios[0] - 1) > _SMALL for r in ratios):
        return False
    if not ratios[0].is_real:
        return False
    if gold.mark in ("=", "\\neq"):
        return gold.mark == said.mark
    flipped = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
    return said.mark == (gold.mark if ratios[0].is_positive else flipped[gold.mark])


def _same_value(gold: str, said: str, tolerance: float | None) -> bool:
    if latex.spelling(gold) == latex.spelling(said):
        return True
    one, other = numbers.read(gold), numbers.read(said)
    if one is not None and other is not None:
        return numbers.close(one, other, tolerance)
    based = _BASED.fullmatch(gold), _BASED.fullmatch(said)
    if any(based):
        digits = [m.group(1) if m else text for m, text in zip(based, (gold, said), strict=True)]
        bases = {m.group(2) for m in based if m}
        return digits[0].lower() == digits[1].lower() and len(bases) == 1
    if too_large(said):
        return False
    wanted = _parsed(gold, _GoldError)
    try:
        given = _parsed(said, _TextError)
    except _TextError:
        return False
    verdict = _decided(wanted, given, tolerance)
    if verdict is not None:
        return verdict
    return bool(verify(wanted, given, strict=True, timeout_seconds=None))


def too_large(text: str) -> bool:
    """Powers of powers, exponents and factorials that nobody writes out."""
    if latex.depth(text) > _DEEPEST or len(text) > 1000:
        return True
    for match in re.finditer(r"\^", text):
        rest = text[match.end() :].lstrip()
        exponent = rest[: _group_end(rest)]
        after = rest[len(exponent) :].lstrip()
        if re.search(r"\^|!", exponent) or after.startswith("^") or re.search(r"\d{5}", exponent):
            return bool(re.search(r"\d", exponent + after[1:2]))
    return re.search(r"\d{5,}\s*\}?\s*\)?\s*!|!\s*\)?\s*!|[\])}]\s*!\s*[\^!]", text) is not None


def _group_end(text: str) -> int:
    level = 0
    for place, character in enumerate(text):
        level += (character in "{(") - (character in "})")
        if level <= 0:
            if character.isdigit() and text[place + 1 : place + 2].isdigit():
                continue
            return place + 1
    return len(text)


def _parsed(text: str, error: type[Exception]) -> Any:
    if _MISREAD.search(text):
        raise error(text)
    text = _TRANSPOSED.sub(r"^{\\tau_{T}}", _PRIME.sub(r"_{prime}", text))
    try:
        parsed = latex2sympy(
            normalize_latex(text, _NORMALIZATION),
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
    except MemoryError:
        raise
    except Exception as reason:
        raise error(text) from reason
    if parsed is None:
        raise error(text)
    return parsed


def _exact(expression: Any) -> Any:
    """Evaluated, with decimals as fractions and i as the imaginary unit."""
    expression = expression.doit()
    floats = {f: sympy.Rational(str(f)) for f in expression.atoms(sympy.Float)}
    units = {s: sympy.I for s in expression.free_symbols if s.name == "i"}
    return expression.xreplace({**floats, **units}).doit() if floats or units else expression


def _decided(gold: Any, said: Any, tolerance: float | None) -> bool | None:
    """Whether two expressions have the same value; None where they have none."""
    try:
        return _decide(gold, said, tolerance)
    except _UNUSABLE:
        return None


def _decide(gold: Any, said: Any, tolerance: float | None) -> bool | None:
    if any(isinstance(side, sympy.Basic) and side.has(sympy.Derivative) for side in (gold, said)):
        return bool(gold == said)  # to sympy dy/dx is 0, since y is a constant
    one, other = _exact(gold), _exact(said)
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return None
    if one.has(sympy.zoo, sympy.nan) or other.has(sympy.zoo, sympy.nan):
        return False
    if one.is_infinite or other.is_infinite:
        return bool(gold == said)  # math-verify takes some infinities for any number
    if one == other:
        return True
    if one.is_Rational and other.is_Rational:
        return _near(abs(one - other), tolerance)
    if one.atoms(AppliedUndef) | other.atoms(AppliedUndef):
        return None
    pairs = _values(one, other)
    if not (one.free_symbols | other.free_symbols):
        if not pairs:
            return None
        return _near(abs(pairs[0][0] - pairs[0][1]), tolerance) or _alike(*pairs[0])
    if len(pairs) < _ENOUGH:
        return None
    return all(_alike(*pair) for pair in pairs)


def _near(difference: Any, tolerance: float | None) -> bool:
    return tolerance is not None and bool(difference <= sympy.Rational(str(tolerance)))


def _alike(one: Any, other: Any) -> bool:
    return bool(abs(one - other) <= _SMALL * min(abs(one), abs(other), 1))


def _values(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """Values of both at the same points: fractions of either sign, whole numbers where those give
    none. Points where a root or logarithm of a variable leaves the real numbers are left out."""
    names = sorted({symbol.name for symbol in one.free_symbols | other.free_symbols})
    draw = random.Random("points")
    fractions = [
        {name: draw.choice([1, 1, -1]) * Fraction(draw.randrange(1, 97), 31) for name in names}
        for _ in range(_POINTS if names else 1)
    ]
    whole = [{name: Fraction(draw.randrange(1, 9)) for name in names} for _ in range(_POINTS)]
    for points in (fractions, whole):
        pairs = [(_value(one, point), _value(other, point)) for point in points]
        usable = [(a, b) for a, b in pairs if a is not None and b is not None]
        if usable or not names:
            return usable
    return []


def _value(expression: Any, point: dict[str, Fraction]) -> Any:
    at = {
        s: sympy.Rational(point[s.name].numerator, point[s.name].denominator)
        for s in expression.free_symbols
    }
    if at and any(_leaves_reals(part, at) for part in expression.atoms(sympy.Pow, sympy.log)):
        return None
    value = sympy.N(expression.xreplace(at).doit(), _DIGITS, maxn=400)
    return value if value.is_number and value.is_finite and not value.free_symbols else None


def _leaves_reals(part: Any, at: dict[Any, Any]) -> bool:
    inside = part.args[0]
    if not inside.free_symbols:
        return False
    if isinstance(part, sympy.Pow) and part.exp.is_integer:
        return False
    value = sympy.N(inside.xreplace(at))
    return not (value.is_real and value > 0)


def _setup(_: Any) -> Callable[[Any], Iterator[str]]:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))

    def answer(request: tuple[list[str], str, list[float | None]]) -> Iterator[str]:
        yield compare(*request)

    return answer


if __name__ == "__main__":
    serve(_setup)
