"""What a text gives as its answer: for votes, equal answers are equal strings."""

import json

import pytest

from corp_ray.records import Example
from corp_ray.tasks import answer_of, make_task
from corp_ray.tasks.mathematics import spelled


def task_of(tmp_path, kind, row, **settings):
    """A task of one row, and the example that it makes of it."""
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    task = make_task(kind, path=str(path), **settings)
    return task, task.examples()[0]


def own_task(tmp_path, source):
    path = tmp_path / "own.py"
    path.write_text(
        f"def examples():\n    yield {{'question': 'q', 'answer': 'a'}}\n\n{source}\n\n"
        "def reward(answer, text):\n    return 0.0\n"
    )
    task = make_task("python_file", path=str(path))
    return task, task.examples()[0]


class Plain:
    """A task without `answer`."""


class Broken:
    def answer(self, example, text):
        raise RuntimeError(text)


def test_a_task_without_a_word_on_answers_gives_the_stripped_text():
    example = Example("0", "q", "a")
    assert answer_of(Plain(), example, " two  words\n") == "two  words"
    assert answer_of(Plain(), example, " \n") is None


def test_an_exception_is_no_answer():
    assert answer_of(Broken(), Example("0", "q", "a"), "x") is None


@pytest.mark.parametrize("kind", ["gsm8k", "rows"])
def test_equal_numbers_are_one_answer_however_they_are_written(tmp_path, kind):
    settings = {"grader": "numeric"} if kind == "rows" else {}
    task, example = task_of(tmp_path, kind, {"question": "q", "answer": "#### 1000"}, **settings)
    texts = ["1,000", "so it is 1000.0", r"\boxed{1{,}000}", "#### 1e3", "The answer is $1000."]
    assert {answer_of(task, example, text) for text in texts} == {"1000"}
    assert answer_of(task, example, "0.75") == answer_of(task, example, "3/4") == "3/4"
    assert answer_of(task, example, "1001") == "1001"
    assert answer_of(task, example, "no idea") is None
    assert answer_of(task, example, "") is None


def test_rows_of_other_graders_give_the_stripped_text(tmp_path):
    for grader in ("exact", "tests.graders:plain"):
        row = {"question": "q", "answer": "a"}
        task, example = task_of(tmp_path, "rows", row, grader=grader)
        assert answer_of(task, example, " 1,000 ") == "1,000"
        assert answer_of(task, example, " ") is None


def test_a_last_number_is_the_answer_where_that_is_graded():
    settings = {"dataset": "chain_sum", "arguments": {}, "size": 1, "seed": 0}
    number = make_task("reasoning_gym", answer="last_number", **settings)
    text = make_task("reasoning_gym", answer="text", **settings)
    example = number.examples()[0]
    assert answer_of(number, example, "3 and 4, so 7.0") == "7"
    assert answer_of(number, example, "seven") is None
    assert answer_of(text, example, " 3 and 4 ") == "3 and 4"


@pytest.mark.parametrize(
    "spellings",
    [
        (r"\frac{3}{4}", "0.75", "3/4"),
        ("1, 2", "2,1", r"\{1,2\}"),
        (r"\left(1, 2\right)", "(1,2)"),
        ("x = 5", "5", "5.0"),
        (r"2 \sqrt{ 3 }", r"2\sqrt{3}"),
        (r"\text{Monday}", "monday"),
        ("5 < x", "x > 5"),
    ],
)
def test_spellings_of_a_mathematical_answer_are_one(spellings):
    assert len({spelled(said) for said in spellings}) == 1


@pytest.mark.parametrize("pair", [("(1,2)", "(2,1)"), ("1,2", "(1,2)"), ("x > 5", r"x \geq 5")])
def test_different_mathematical_answers_stay_two(pair):
    assert spelled(pair[0]) != spelled(pair[1])


def test_mathematical_families_read_the_box(tmp_path):
    pytest.importorskip("math_verify")
    task, example = task_of(tmp_path, "math500", {"problem": "p", "answer": "0.5"})
    assert answer_of(task, example, r"so \boxed{\frac12}") == "1/2"
    assert answer_of(task, example, "I do not know") is None
    row = {"question": "q", "final_answer": ["1", "2"], "is_multiple_answer": True}
    task, example = task_of(tmp_path, "olympiadbench", row)
    assert answer_of(task, example, r"\boxed{2, 1}") == answer_of(task, example, r"\boxed{1,2}")
    brackets = "{" * 3000 + "}" * 3000
    assert answer_of(task, example, rf"\boxed{{{brackets}}}") is None


def test_an_expression_is_compared_without_white_space(tmp_path):
    task, example = task_of(tmp_path, "countdown", {"nums": [44, 19, 35], "target": 98})
    texts = ["<answer>44 + 19+35</answer>", "44+19 + 35 = 98", "<answer> 98 = 44 + 19 + 35"]
    assert {answer_of(task, example, text) for text in texts} == {"44+19+35"}
    assert answer_of(task, example, "<answer>35+44+19</answer>") == "35+44+19"
    assert answer_of(task, example, "I give up") is None


def test_an_order_is_its_letters_and_equal_sentences_are_one(tmp_path):
    row = {"shuffled_sentences": ["b.", "a.", "a."], "gold_order": [1, 2, 0]}
    task, example = task_of(tmp_path, "rocstories", row)
    assert answer_of(task, example, "B, C, A") == answer_of(task, example, "c,b,a") == "B,C,A"
    assert answer_of(task, example, "A,A,B") is None
    assert answer_of(task, example, "none") is None


def test_a_program_is_its_text(tmp_path):
    row = {
        "task_id": 1,
        "text": "add",
        "code": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3"],
    }
    task, example = task_of(tmp_path, "mbpp", row)
    program = "def add(a, b):\n    return b + a"
    assert answer_of(task, example, f"Here:\n```python\n{program}\n\n```\nDone.") == program
    assert answer_of(task, example, "I would add them.") is None


def test_a_file_of_ones_own_may_say_what_its_answers_are(tmp_path):
    task, example = own_task(tmp_path, "def answer(example, text):\n    return int(text) or None")
    assert answer_of(task, example, "007") == "7"
    assert answer_of(task, example, "0") is None
    assert answer_of(task, example, "seven") is None
    task, example = own_task(tmp_path, "")
    assert answer_of(task, example, " 007 ") == "007"
    task, example = own_task(tmp_path, "def answer(text):\n    return 'something else'")
    assert answer_of(task, example, "007") == "007"
