"""Countdown: an expression is read by a parser of our own and counts exactly, or not at all."""

import itertools
import json
import random
import time
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import make_task
from corp_ray.tasks.arithmetic import DEPTH, DIGITS, NotArithmetic, parse
from corp_ray.tasks.countdown import solve

RIGHT, WRONG, UNREADABLE = (
    Grade(1.0, GRADED, 1.0),
    Grade(0.0, GRADED, 1.0),
    Grade(0.0, WRONG_FORMAT, 0.0),
)
LOOSE = Grade(1.0, GRADED, 0.0)  # right, but not in the asked tags
TASK = make_task("countdown", path="unused.jsonl")


def puzzle(numbers, target):
    data = {"numbers": list(numbers), "target": target, "solution": ""}
    return Example("0", "", str(target), data)


BASE = puzzle([44, 19, 35], 98)
SIX = puzzle([2, 3, 4, 10], 30)


def tagged(expression):
    return f"<answer>{expression}</answer>"


@pytest.mark.parametrize(
    "text",
    [
        tagged("44 + 19 + 35"),
        tagged("44+19+35 = 98"),
        tagged("98 = 44 + 19 + 35"),
        tagged("(44 + (19)) + 35."),
        tagged("35 \u2212 (-19) + 44"),
        tagged("-(-44 - 19) + 35"),
        tagged("$44 + 19 + 35$"),
        tagged("\\(44 + 19 + 35 = 98\\)"),
        tagged("**44 + 19 + 35**"),
        tagged("\n`44 + 19 + 35`\n"),
        "<answer>1 + 1</answer> no: <answer>44 + 19 + 35</answer> <answer>",
        "First <answer> is for later. <Answer>44+19+35</ANSWER> That is it.",
    ],
)
def test_what_a_person_takes_for_the_right_expression_is_right(text):
    assert TASK.reward(BASE, text) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        "44 + 19 + 35",
        "So we have\n44 + 19 + 35 = 98\n",
        "Answer: 44 + 19 + 35",
        "The final answer is: **44 + 19 + 35**",
        "\\boxed{44 + 19 + 35}, done",
        "so <answer>44 + 19 + 35",
    ],
)
def test_the_right_expression_outside_the_tags_is_right_in_another_format(text):
    assert TASK.reward(BASE, text) == LOOSE


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("44 + 19 + 34", "another number"),
        ("44 + 19 + 35 + 0", "one number more"),
        ("63 + 35", "numbers joined before"),
        ("98", "the target alone"),
        ("44 + 19 + 35 + 35 - 35", "a number three times"),
        ("44 + 35 + (19 * 1)", "a number that is not there"),
        ("44 - 19 + 35", "another value"),
        ("44 + 19 + 35 = 99", "says something else"),
        ("44 + 19 / (35 - 35)", "divides by zero"),
        ("4419 + 35", "digits put together"),
    ],
)
def test_what_breaks_a_rule_is_graded_zero(expression, why):
    assert TASK.reward(BASE, tagged(expression)) == WRONG, why


@pytest.mark.parametrize(
    "expression",
    [
        *["44 ** 19", "44^19", "44 // 19", "9**9**9**9", "44 19 35", "44(19)", "44.0 + 19", "44 +"],
        *["", "x", "()", "sum([44, 19, 35])", "__import__('os')", "1e3", "0b1", "4_4", "=", "44 ="],
        *["44 + - 19", "+44", "44 + 19)", "(44 + 19", "\u0664\u0664 + 19", "44 = 19 = 35"],
        *["44 + 19 + 35 = 98 = 98", "44 = 19 + 35 =", "1+" * 300 + "1", "1" * (DIGITS + 1)],
        "(" * (DEPTH + 1) + "1" + ")" * (DEPTH + 1),
    ],
)
def test_what_is_no_arithmetic_has_the_wrong_format(expression):
    assert TASK.reward(BASE, tagged(expression)) == UNREADABLE


def test_signs_of_print_and_latex_are_operators():
    for expression in ("(2+4)*10/3+10", "3*10*(4-2)/2"):
        assert parse(expression).value is not None
    for text in ("3 \u00d7 10 \u00d7 (4 \u2212 2) \u00f7 2", "3 x 10 X (4 \u2013 2) / 2"):
        assert parse(text).value == 30
    assert parse(r"3 \times 10 \cdot \left(4 - 2\right) \div 2").value == 30
    assert parse("7 - 2 - 1").value == 4
    assert parse("8 / 4 / 2").value == 1
    assert parse("1 + 2 * 3").value == 7
    assert parse("2 * (-3 + 1)").value == -4


def test_values_are_exact():
    """In floats 1 / 49 * 49 is less than 1, and with a tolerance 0.99999999 is 1."""
    assert TASK.reward(puzzle([1, 49, 49], 1), tagged("1 / 49 * 49")) == RIGHT
    near = tagged("99999999 / 100000000")
    assert TASK.reward(puzzle([99999999, 100000000], 1), near) == WRONG


def every_value(numbers):
    """Every (value, text) of all `numbers`, by trees over permutations: not the package's way."""
    if len(numbers) == 1:
        yield Fraction(numbers[0]), str(numbers[0])
        return
    for cut in range(1, len(numbers)):
        for a, left in every_value(numbers[:cut]):
            for b, right in every_value(numbers[cut:]):
                yield a + b, f"({left}+{right})"
                yield a - b, f"({left}-{right})"
                yield a * b, f"({left}*{right})"
                if b:
                    yield a / b, f"({left}/{right})"


def test_every_solution_that_brute_force_finds_is_right_and_every_other_value_wrong():
    draw, right, wrong = random.Random(5), 0, 0
    for _ in range(6):
        numbers = [draw.randint(1, 12) for _ in range(3)]
        found = [x for p in itertools.permutations(numbers) for x in every_value(list(p))]
        target = draw.choice([int(v) for v, _ in found if v.denominator == 1 and v > 0])
        example = puzzle(numbers, target)
        for value, text in found:
            assert TASK.reward(example, tagged(text)) == (RIGHT if value == target else WRONG), text
            right, wrong = right + (value == target), wrong + (value != target)
        assert target in [parse(solve(numbers, target)).value]
        unreachable = next(t for t in range(1, 10**4) if t not in {v for v, _ in found})
        assert solve(numbers, unreachable) is None
    assert right > 20
    assert wrong > 500


NOISE = st.text(alphabet="0123456789+-*/() =.<>answer\\boxed{}x\n$\u00d7", max_size=120)


@settings(max_examples=400, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=200), NOISE, NOISE.map(tagged), NOISE.map(lambda t: "\\boxed{" + t)
    )
)
def test_any_text_is_graded_without_raising(text):
    for example in (BASE, puzzle([5], 5), puzzle([0, 0, 1], -1)):
        grade = TASK.reward(example, text)
        assert grade.reward in (0.0, 1.0)
        assert grade.outcome in (GRADED, WRONG_FORMAT)
        assert grade.format in (0.0, 1.0)
        if grade.reward:
            digits = "".join(letter if letter in "0123456789" else " " for letter in text).split()
            assert set(map(int, digits)) >= set(example.data["numbers"])


@settings(max_examples=200, deadline=None)
@given(numbers=st.lists(st.integers(0, 99), min_size=1, max_size=9), seed=st.integers(0, 2**32))
def test_the_parser_agrees_with_python_on_random_expressions(numbers, seed):
    draw = random.Random(seed)
    terms = [str(n) for n in numbers]
    while len(terms) > 1:
        left, right = terms.pop(draw.randrange(len(terms))), terms.pop(draw.randrange(len(terms)))
        joined = f"{left} {draw.choice('+-*/')} {right}"
        terms.append(f"({joined})" if draw.random() < 0.7 else joined)
    read = parse(terms[0])
    exact = "".join(f"Fraction({t})" if t.isdigit() else t for t in _split(terms[0]))
    try:
        value = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        value = None
    assert read.value == value
    assert sorted(read.numbers) == sorted(numbers)


def _split(text):
    return text.replace("(", " ( ").replace(")", " ) ").split()


def test_long_texts_take_no_time():
    """Quadratic reading of these would take minutes."""
    began = time.monotonic()
    for text in (
        "<answer>" * 50_000,
        "(" * 400_000,
        "1+" * 200_000,
        "\\boxed{" * 60_000,
        "=" * 400_000,
    ):
        for wrapped in (text, tagged(text)):
            assert TASK.reward(BASE, wrapped).reward == 0
    assert time.monotonic() - began < 60
    with pytest.raises(NotArithmetic):
        parse("(" * 390)


def test_the_prompt_states_rules_and_format_and_its_own_example_is_readable():
    (message,) = TASK.prompt(BASE)
    for part in ("44, 19, 35", "98", "exactly once", "<answer>", "</answer>"):
        assert part in message["content"]
    shown = "<answer>" + message["content"].rpartition("<answer>")[2]
    assert TASK.reward(puzzle([1, 2, 3], 1), shown) == RIGHT
    with_system = make_task("countdown", path="x", system_prompt="Be brief.")
    assert with_system.prompt(BASE)[0] == {"role": "system", "content": "Be brief."}


def test_gold_is_right_and_wrong_is_wrong():
    for example in (BASE, SIX, puzzle([7], 7), puzzle([3, 3, 8, 8], 24)):
        gold = TASK.gold(example)
        assert gold
        assert TASK.reward(example, gold) == RIGHT
        for text in TASK.wrong(example):
            assert TASK.reward(example, text).reward == 0
    assert TASK.gold(puzzle([1, 1], 7)) is None


def test_rows_come_in_every_layout_that_people_have(tmp_path):
    plain = [{"target": 98, "nums": [44, 19, 35]}, {"target": 5, "nums": [2, 3]}]
    release = [
        {"target": str(row["target"]), "numbers": row["nums"], "solution": "44 + 19 + 35 = 98"}
        for row in plain
    ]
    trained = [
        {
            "data_source": "countdown",
            "prompt": [{"role": "user", "content": "?"}],
            "reward_model": {
                "style": "rule",
                "ground_truth": {"target": str(row["target"]), "numbers": row["nums"]},
            },
            "extra_info": {"split": "train", "solution": "44 + 19 + 35"},
        }
        for row in plain
    ]
    (tmp_path / "data/countdown").mkdir(parents=True)
    (tmp_path / "data/countdown/countdown.json").write_text(json.dumps(release))
    pq.write_table(pa.Table.from_pylist(trained), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "hub.parquet")
    for path in ("data", "data/countdown", "train.parquet", "hub.parquet"):
        task = make_task("countdown", path=str(tmp_path / path))
        examples = task.examples()
        assert [(e.data["numbers"], e.data["target"]) for e in examples] == [
            ([44, 19, 35], 98),
            ([2, 3], 5),
        ]
        assert [e.answer for e in examples] == ["98", "5"]
        assert task.reward(examples[0], task.gold(examples[0])) == RIGHT


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"target": 5}, ["'nums'", "target"]),
        ({"nums": [1, 2]}, ["'target'", "nums"]),
        ({"nums": [], "target": 5}, ["'nums'", "[]"]),
        ({"nums": [1, -2], "target": 5}, ["'nums'", "-2"]),
        ({"nums": [1, 2.5], "target": 5}, ["'nums'", "2.5"]),
        ({"nums": "1 2", "target": 5}, ["'nums'", "1 2"]),
        ({"numbers": [True], "target": 5}, ["'numbers'", "True"]),
        ({"nums": [1, 2], "target": "five"}, ["'target'", "five"]),
        ({"nums": [1, 2], "target": 2.5}, ["'target'", "2.5"]),
        ({"nums": [1, 2], "target": True}, ["'target'", "True"]),
        ({}, ["'nums'", "nothing"]),
    ],
)
def test_a_row_without_what_it_needs_is_named(tmp_path, row, parts):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"nums": [2, 3], "target": 5}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(TaskError) as raised:
        make_task("countdown", path=str(path)).examples()
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    assert all(part in line for part in [f"{path} line 2", *parts]), line
