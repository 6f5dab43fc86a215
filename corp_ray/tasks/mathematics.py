r"""Grades the final answer of a mathematical text: numbers, expressions, equations, sets, texts.

Graded is what answers.py finds: the last \boxed{...}, else what follows ####, else the formula or
number after "answer is", else whichever of the last formula and the last number comes later. Two
plain numbers are compared here, exactly; all else by a child process (mathematics_child.py, with
math-verify) that is killed when it is late. docs/method.md says what is accepted as equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata

from corp_ray.child import Child, ChildError
from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import answers, latex, numbers
from corp_ray.tasks.questions import BoxedFamily

VERSION = 1
CHILD = "corp_ray.tasks.mathematics_child"
LIMIT_S = 5.0
_LONGEST = 2_000  # characters of an answer; nobody writes a longer one
_DEEPEST = 40  # brackets in one another; deeper ones are not taken apart
_LIBRARIES = ("math-verify", "latex2sympy2-extended", "sympy")


def version() -> str:
    """What grading rests on. Errors: TaskError where math-verify is not installed."""
    try:
        libraries = [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
    except metadata.PackageNotFoundError as error:
        raise TaskError(
            f"mathematical answers need the package {error.name}: pip install 'corp-ray[math]'"
        ) from error
    return " ".join([f"mathematics {VERSION}", *libraries])


class Mathematics:
    """Grades answers with one child process, which the first answer that needs it starts.

    An answer costs at most `limit_s` seconds, the child's start apart. Not for several threads at
    once. Errors: TaskError where math-verify is not installed.
    """

    def __init__(self, *, limit_s: float = LIMIT_S, child: str = CHILD):
        self.version = version()
        self._child, self._limit_s = Child(child), limit_s

    def grade(
        self, gold: Sequence[str], text: str, tolerances: Sequence[float | None] = ()
    ) -> Grade:
        """1 when the answer of `text` is `gold`: several final answers in any order, or one.

        `tolerances` are absolute errors, one for each of `gold` or one for all. `format` is 1 when
        the answer stands in a box. A child that is late, dies or cannot read `gold`: verifier error.
        """
        said, boxed = final_answer(text)
        asked = float(boxed)
        if said is None:
            return Grade(0.0, WRONG_FORMAT, asked)
        if len(said) > _LONGEST:
            return Grade(0.0, GRADED, asked)
        if len(gold) == 1:
            wanted, given = _number(gold[0]), numbers.read(said)
            if wanted is not None and given is not None:
                tolerance = tolerances[0] if tolerances else None
                return Grade(float(numbers.close(wanted, given, tolerance)), GRADED, asked)
        try:
            verdict = self._child.ask((list(gold), said, list(tolerances)), self._limit_s)
        except ChildError:
            return Grade(0.0, VERIFIER_ERROR, asked)
        if verdict not in ("equal", "unequal"):
            return Grade(0.0, VERIFIER_ERROR, asked)
        return Grade(float(verdict == "equal"), GRADED, asked)

    def start(self) -> None:
        """Start the child now. Errors: ChildError when it does not get ready."""
        self._child.start()

    def close(self) -> None:
        self._child.close()


class MathematicsFamily(BoxedFamily):
    """Families whose answers `Mathematics` grades; a subclass grades by `self._mathematics`.

    Errors: TaskError where math-verify is not installed.
    """

    kind = ""

    def __init__(self, **source: str):
        super().__init__(**source)
        self._mathematics = Mathematics()
        self.version = f"{self.kind} 1 {self._mathematics.version}"

    def answer(self, example: Example, text: str) -> str | None:
        """The final answer in one spelling, without a child: what is alike in writing alone."""
        said, _ = final_answer(text)
        return None if said is None or len(said) > _LONGEST else spelled(said)

    def close(self) -> None:
        """End the child process that grades."""
        self._mathematics.close()


@lru_cache(maxsize=10_000)
def _number(text: str) -> numbers.Number | None:
    return numbers.read(text)


def spelled(said: str) -> str | None:
    """An answer in one spelling: numbers as exact fractions, lists in one order, the rest as
    normalised LaTeX. Two spellings of one value may remain two (\\sqrt{8} and 2\\sqrt{2})."""
    number = numbers.read(said)
    if number is not None:
        return str(number.value)
    cleaned = latex.clean(said)
    if latex.depth(cleaned) > _DEEPEST:
        return latex.spelling(cleaned) or None
    return _spelled(latex.read(cleaned)) or None


def _spelled(shape: latex.Shape) -> str:
    if shape.kind == "assignment":
        return _spelled(shape.items[0])
    if not shape.items:
        number = numbers.read(shape.mark)
        return str(number.value) if number is not None else latex.spelling(shape.mark)
    parts = [_spelled(item) for item in shape.items]
    if shape.kind in ("list", "union"):
        return f"{shape.kind}({', '.join(sorted(parts))})"
    return f"{shape.kind}{shape.mark}({', '.join(parts)})"


def final_answer(text: str) -> tuple[str | None, bool]:
    """What a text gives as its answer, or None, and whether that stands in a box."""
    boxed = answers.box(text)
    if boxed is not None:
        return boxed, True
    marked = answers.after_hashes(text) or answers.after_phrase(text)
    if marked is not None:
        return answers.first_formulas(marked) or marked, False
    formula, number = answers.last_formula(text), numbers.last_token(text)
    if formula is None or (number and text.rfind(formula) + len(formula) < text.rfind(number[-1])):
        return number or None, False
    return formula, False
