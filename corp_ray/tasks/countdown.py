"""Countdown: combine given numbers with + - * / and brackets so that they make a target.

Rows as in Jiayi-Pan/Countdown-Tasks-3to4 (`nums`, `target`), where each number is to be used
exactly once; also RandOpt's countdown.json (`numbers`, `target`, `solution`) and its Parquet files
(`reward_model.ground_truth`). The reward is 1 or 0, by exact arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import Messages, chat
from corp_ray.tasks.arithmetic import LENGTH, Expression, NotArithmetic, parse
from corp_ray.tasks.sources import Family, Row, Upstream, lacking

UPSTREAM = Upstream("Jiayi-Pan/Countdown-Tasks-3to4", split="train", folder="countdown")

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:final )?(?:answer|expression|equation|solution)(?: is)?\s*:", re.IGNORECASE
)
_SOLVABLE = 4  # numbers for which a solution is looked for where the row has none


class CountdownTask(Family):
    """The prompt asks for an expression between <answer> and </answer>.

    Graded is what the last such tag holds; without one, the last \\boxed{} or else the last line,
    when that is an expression. "= 98" after it is accepted when it is the target. Arguments as of
    `sources.read_rows`. Errors: TaskError naming file, row and field.
    """

    version = "countdown 1"
    in_place = True
    upstream = UPSTREAM

    def examples(self) -> Sequence[Example]:
        found = []
        for number, (place, row) in enumerate(self._rows()):
            numbers, target = _puzzle(place, row)
            question = f"{' '.join(map(str, numbers))} -> {target}"
            data = {"numbers": numbers, "target": target, "solution": _solution(row)}
            found.append(Example(str(number), question, str(target), data))
        return found

    def prompt(self, example: Example) -> Messages:
        numbers = ", ".join(map(str, example.data["numbers"]))
        return chat(
            self._system_prompt,
            f"Write an arithmetic expression that equals {example.data['target']}. It must use "
            f"each of the numbers {numbers} exactly once and no other number; only +, -, *, / and "
            "brackets are allowed. Think step by step, then give the expression alone between "
            "<answer> and </answer>, for example <answer>(1 + 2) / 3</answer>.",
        )

    def reward(self, example: Example, text: str) -> Grade:
        said, tagged = _said(text)
        target = example.data["target"]
        try:
            _, expression, states = _read(said)
        except NotArithmetic:
            return Grade(0.0, WRONG_FORMAT, 0.0)
        right = (
            sorted(expression.numbers) == sorted(example.data["numbers"])
            and expression.value == target
            and states in (None, target)
        )
        return Grade(float(right), GRADED, float(tagged))

    def answer(self, example: Example, text: str) -> str | None:
        """The expression without white space; None where there is none."""
        try:
            return _read(_said(text)[0])[0]
        except NotArithmetic:
            return None

    def gold(self, example: Example) -> str | None:
        """A text that is graded 1, where the row has a solution or few numbers."""
        solution = example.data["solution"]
        if not solution and len(example.data["numbers"]) <= _SOLVABLE:
            solution = solve(example.data["numbers"], example.data["target"])
        return f"<answer>{solution}</answer>" if solution else None

    def wrong(self, example: Example) -> list[str]:
        """Texts that are graded 0: the target alone, and another number beside the given ones."""
        numbers, target = example.data["numbers"], example.data["target"]
        alone = [f"<answer>{target}</answer>"] if numbers != [target] else []
        return [*alone, f"<answer>{target} + {' + '.join(map(str, numbers))}</answer>"]


def _said(text: str) -> tuple[str, bool]:
    """What is graded of a text, and whether it stands in the asked tags."""
    tags = [(m.group(1), m.start(), m.end()) for m in _TAG.finditer(text)]
    for (opens, _, start), (closes, end, _) in reversed(list(pairwise(tags))):
        if not opens and closes:
            return text[start:end], True
    if tags and not tags[-1][0]:  # never closed: the end of the text closes it
        return text[tags[-1][2] :], False
    boxed = text.rfind("\\boxed{")
    if boxed >= 0:
        return text[boxed + 7 :].partition("}")[0], False
    line = next((line for line in reversed(text.splitlines()) if line.strip("` *\t")), "")
    return _LABEL.split(line)[-1], False


def _read(said: str) -> tuple[str, Expression, int | None]:
    """The expression in `said`, as written but for white space, and as read; and the number that
    it is said to equal. Errors: NotArithmetic."""
    said = said[: 2 * LENGTH].strip().removesuffix(".").strip("`$ ")
    if said.startswith("**") and said.endswith("**"):
        said = said[2:-2].strip()
    written = ["".join(side.split()) for side in said.removesuffix(".").split("=", 2)]
    sides = [parse(side) for side in said.removesuffix(".").split("=", 2)]
    if len(sides) == 1:
        return written[0], sides[0], None
    if len(sides[1].numbers) != 1:  # "98 = 44 + 19 + 35"
        sides[:2], written[:2] = sides[1::-1], written[1::-1]
    if len(sides) > 2 or len(sides[1].numbers) != 1 or sides[1].value is None:
        raise NotArithmetic("more than one '=', or no number beside it")
    return written[0], sides[0], int(sides[1].value)


def _puzzle(place: str, row: Row) -> tuple[list[int], int]:
    """The numbers and the target of a row. Errors: TaskError naming the field."""
    truth = row.get("reward_model")
    truth = truth.get("ground_truth") if isinstance(truth, dict) else None
    if not isinstance(truth, dict):
        truth = row
    field = "numbers" if truth.get("numbers") is not None else "nums"
    given, target = truth.get(field), truth.get("target")
    if given is None or target is None:
        raise lacking(place, row, "nums" if given is None else "target")
    whole = isinstance(given, list) and all(_whole(x) for x in given)
    if not given or not whole:
        raise TaskError(f"{place}: {field!r} is {given!r}, expected a list of whole numbers from 0")
    if isinstance(target, str) and re.fullmatch(r"-?[0-9]{1,18}", target):
        target = int(target)
    if not isinstance(target, int) or isinstance(target, bool):
        raise TaskError(f"{place}: 'target' is {target!r}, expected a whole number")
    return given, target


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _solution(row: Row) -> str:
    extra = row.get("extra_info")
    found = row.get("solution") or (extra.get("solution") if isinstance(extra, dict) else "")
    return found.partition("=")[0].strip() if isinstance(found, str) else ""


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression of all `numbers` that equals `target`, or None when there is none."""
    return _solve([(Fraction(number), str(number)) for number in numbers], Fraction(target))


def _solve(terms: list[tuple[Fraction, str]], target: Fraction) -> str | None:
    if len(terms) == 1:
        return terms[0][1] if terms[0][0] == target else None
    for i, left in enumerate(terms):
        for j, right in enumerate(terms):
            rest = [term for k, term in enumerate(terms) if k not in (i, j)]
            for joined in _joined(left, right) if i != j else ():
                found = _solve([*rest, joined], target)
                if found:
                    return found
    return None


def _joined(
    left: tuple[Fraction, str], right: tuple[Fraction, str]
) -> Iterator[tuple[Fraction, str]]:
    (a, said), (b, other) = left, right
    yield a + b, f"({said} + {other})"
    yield a - b, f"({said} - {other})"
    yield a * b, f"({said} * {other})"
    if b:
        yield a / b, f"({said} / {other})"
