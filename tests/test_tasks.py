"""Tasks: where examples come from, and what a text is worth. A verifier that fails is an outcome
of its own, never a silent zero; a broken row is named by file, line and field."""

import importlib
import json
import linecache
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import Task, kinds, make_task
from corp_ray.tasks.grading import grade_exact, grade_numeric, last_number

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
RIGHT, WRONG = Grade(1.0, GRADED), Grade(0.0, GRADED)


def share_of_letters(answer, text):
    """A grader that gives partial credit, fails on "crash" and leaves [0, 1] on "more"."""
    if text == "crash":
        raise RuntimeError("broken grader")
    return {"more": 1.5, "less": -0.1, "nan": float("nan"), "word": "high"}.get(
        text, sum(a == b for a, b in zip(answer, text, strict=False)) / len(answer)
    )


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def refusal(make):
    """The one line of the TaskError that `make` ends with."""
    with pytest.raises(TaskError) as raised:
        make()
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


# What is read out of a text. A minus after a number is an operator, else it is a sign; what is part
# of an expression or of a choice is no number.
NUMBERS = {
    **dict.fromkeys(["18", "18.", "$18", "**18**", "\\boxed{18}", "#### 18", "(18)"], "18"),
    **dict.fromkeys(["18%", "18 dollars", "17, no: 18!", "6 * 3 = 18", "18-", "\\$18"], "18"),
    **{"18.00": "18.00", "18.0.": "18.0", "0.5": "0.5", "+7": "+7"},
    **{"1,000": "1000", "$1,234,567.50": "1234567.50", "7, 8": "8"},
    **dict.fromkeys(["-5", "x=-5", "= -5.", "-$5", "$-5", "\u22125", "**-5**"], "-5"),
    **{"3/4": "3/4", "18 million": "18000000", "twelve (12)": "12", "1) 5 2) 7": "7"},
    **dict.fromkeys(["", "none", "x2", "eighteen", ".", "1e999999999"], None),
    **dict.fromkeys(["12-5", "12\u22125", "12 - 5", "12 -5", "2-(-5)", "9**9**9", "2x"], None),
    **dict.fromkeys(["sqrt(2)", "\\sqrt{2}", "x^2", "10,20", "2 or 3", "f(5)", "2\\pi"], None),
}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items(), ids=repr)
def test_the_last_number_is_the_one_a_person_reads(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize("text", ["18", "18.", "$18", "18.00", "so 9*2 = **18**", "\\boxed{18}"])
def test_numbers_compare_by_value(text):
    assert grade_numeric("18", text) == RIGHT
    assert grade_numeric("18.0", text) == RIGHT
    assert grade_numeric("-18", text) == WRONG
    assert grade_numeric("1,800", text) == WRONG


def test_decimals_compare_exactly_and_a_text_without_number_has_the_wrong_format():
    assert grade_numeric("0.3", "0.30") == RIGHT
    assert grade_numeric("0.3", "0.30000000000000000001") == WRONG  # equal as floats
    assert grade_numeric("1,000", "1000") == RIGHT
    assert grade_numeric("18", "eighteen") == Grade(0.0, WRONG_FORMAT)
    with pytest.raises(ValueError, match="no number"):
        grade_numeric("eighteen", "18")


def test_exact_grading_forgives_white_space_at_the_ends_only():
    assert grade_exact("a b", " a b\n") == RIGHT
    assert grade_exact("a b", "a  b") == WRONG
    assert grade_exact("a", "A") == WRONG
    assert grade_exact("a", " \n") == Grade(0.0, WRONG_FORMAT)


def chain_sum(**changes):
    settings = {"dataset": "chain_sum", "arguments": {"min_terms": 2, "max_terms": 3}}
    return make_task("reasoning_gym", **{**settings, "size": 8, "seed": 1, **changes})


def test_a_reasoning_gym_task_is_the_same_every_time_and_another_with_another_seed():
    examples = chain_sum().examples()
    assert len(examples) == 8
    assert examples == chain_sum().examples()
    assert [e.question for e in examples] != [e.question for e in chain_sum(seed=2).examples()]
    task = chain_sum(system_prompt="Be brief.")
    assert isinstance(task, Task)
    assert task.prompt(examples[0]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": examples[0].question},
    ]
    assert [m["role"] for m in chain_sum().prompt(examples[0])] == ["user"]


def test_reasoning_gym_grades_the_text_or_its_last_number():
    by_text, by_number = chain_sum(partial_credit=False), chain_sum(answer="last_number")
    example = by_text.examples()[0]
    sentence = f"First 1, then 2; the answer is {example.answer}."
    assert by_text.reward(example, f" {example.answer}\n") == RIGHT
    assert by_text.reward(example, sentence) == WRONG
    assert by_number.reward(example, sentence) == RIGHT
    assert by_number.reward(example, f"{example.answer}, no: 1") == WRONG
    assert by_number.reward(example, "no idea") == Grade(0.0, WRONG_FORMAT)
    assert by_text.reward(example, "  ") == Grade(0.0, WRONG_FORMAT)


def test_partial_credit_is_given_or_not_as_configured():
    generous, strict = chain_sum(), chain_sum(partial_credit=False)
    example = generous.examples()[0]
    some = generous.reward(example, f"it is {example.answer}")
    assert 0 < some.reward < 1
    assert some.outcome == GRADED
    assert strict.reward(example, f"it is {example.answer}") == WRONG
    assert strict.reward(example, example.answer) == RIGHT
    assert len({generous.version, strict.version, chain_sum(answer="last_number").version}) == 3


def test_reasoning_gym_refuses_what_it_does_not_know():
    assert "'chain_some'" in refusal(lambda: chain_sum(dataset="chain_some"))
    assert "nope" in refusal(lambda: chain_sum(arguments={"nope": 1}))
    assert "max_terms" in refusal(lambda: chain_sum(arguments={"min_terms": 5, "max_terms": 2}))
    assert "'exams'" in refusal(lambda: make_task("exams"))
    assert {"reasoning_gym", "rows", "python_file", "mbpp", "humaneval"} <= set(kinds())


def test_a_failing_verifier_is_an_outcome_not_a_zero():
    example = chain_sum().examples()[0]
    broken = Example(example.id, example.question, example.answer, data=None)
    assert chain_sum().reward(broken, "3") == Grade(0.0, VERIFIER_ERROR)


def test_rows_come_alike_from_jsonl_and_parquet(tmp_path):
    rows = [{"q": "2+2?\nNow!", "a": 4, "x": 1}, {"q": "1\u00bd?", "a": "one", "x": None}]
    names = {"question_field": "q", "answer_field": "a"}
    lines = tmp_path / "t.jsonl"
    lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    table = pa.Table.from_pylist([{**row, "a": str(row["a"])} for row in rows])
    pq.write_table(table, tmp_path / "t.parquet")
    found = make_task("rows", path=str(tmp_path / "t.parquet"), **names).examples()
    assert found == [Example("0", rows[0]["q"], "4"), Example("1", rows[1]["q"], rows[1]["a"])]
    assert make_task("rows", path=str(lines), **names).examples() == found


def test_only_a_line_feed_ends_a_line(tmp_path):
    """json.dumps leaves U+2028 and U+0085 as they are inside a string, and so do data sets."""
    row = {"question": "a\u2028b\u0085c\x1d", "answer": "1"}
    path = tmp_path / "t.jsonl"
    path.write_bytes((json.dumps(row, ensure_ascii=False) + "\r\n").encode())
    assert make_task("rows", path=str(path)).examples() == [Example("0", row["question"], "1")]


def test_an_answer_pattern_takes_the_answer_out_of_a_longer_one(tmp_path):
    rows = [{"question": "a?", "answer": "2 + 2 = 4\n#### 4 "}, {"question": "b?", "answer": "5"}]
    good, bad = jsonl(tmp_path / "good.jsonl", rows[:1]), jsonl(tmp_path / "bad.jsonl", rows)
    assert make_task("rows", path=good, answer_pattern="#### (.+)").examples()[0].answer == "4"
    line = refusal(make_task("rows", path=bad, answer_pattern="#### (.+)").examples)
    assert "bad.jsonl line 2" in line
    assert "'answer'" in line


def test_an_answer_pattern_whose_group_stays_empty_names_the_row(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"question": "a?", "answer": "none"}])
    assert "line 1" in refusal(make_task("rows", path=path, answer_pattern="(#+.*)?").examples)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"question": "a", "answer": "1"}\n{"question": "b"}\n', ["line 2", "'answer'"]),
        ('\n{"question": "", "answer": "1"}\n', ["line 2", "'question'"]),
        ('{"question": "a", "answer": null}\n', ["line 1", "'answer'"]),
        ('{"question": "a", "answer": "1"}\n{"question": \n', ["line 2", "not JSON"]),
        ('["question", "answer"]\n', ["line 1", "object"]),
    ],
)
def test_a_broken_row_is_named_by_file_line_and_field(tmp_path, text, parts):
    path = tmp_path / "task.jsonl"
    path.write_text(text)
    line = refusal(make_task("rows", path=str(path)).examples)
    assert all(part in line for part in [str(path), *parts]), line


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("absent.jsonl", "absent.parquet", "text.parquet"):
        assert name in refusal(make_task("rows", path=str(tmp_path / name)).examples)
    pq.write_table(pa.table({"question": ["a"], "reply": ["b"]}), tmp_path / "other.parquet")
    line = refusal(make_task("rows", path=str(tmp_path / "other.parquet")).examples)
    assert "other.parquet row 1: no 'answer'" in line
    assert "reply" in line


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"question": "é", "answer": "1"}\n'.encode("latin-1"))
    assert "latin.jsonl" in refusal(make_task("rows", path=str(path)).examples)


def test_a_function_grades_and_its_failures_are_outcomes(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"question": "a?", "answer": "ab"}])
    task = make_task("rows", path=path, grader=f"{__name__}:share_of_letters")
    (example,) = task.examples()
    assert task.reward(example, "ab") == RIGHT
    assert task.reward(example, "ax") == Grade(0.5, GRADED)
    for text in ("crash", "more", "less", "nan", "word"):
        assert task.reward(example, text) == Grade(0.0, VERIFIER_ERROR)
    numeric = make_task("rows", path=path, grader="numeric")
    assert numeric.reward(example, "18") == Grade(0.0, VERIFIER_ERROR)  # "ab" holds no number
    versions = [task.version, numeric.version, make_task("rows", path=path).version]
    assert len(set(versions)) == 3


def test_a_graders_source_is_part_of_the_tasks_version(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "t.jsonl", [{"question": "a?", "answer": "ab"}])
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = []
    for constant in ("0.25", "0.5", "0.25"):
        (tmp_path / "constant_grader.py").write_text(f"def grade(a, t):\n    return {constant}\n")
        sys.modules.pop("constant_grader", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        linecache.clearcache()
        task = make_task("rows", path=path, grader="constant_grader:grade")
        assert task.reward(task.examples()[0], "x") == Grade(float(constant), GRADED)
        versions.append(task.version)
    assert versions[0] == versions[2] != versions[1]


@pytest.mark.parametrize("grader", ["exakt", "no_such_module:f", f"{__name__}:absent", "math:sqrt"])
def test_a_grader_that_does_not_exist_is_named(tmp_path, grader):
    path = jsonl(tmp_path / "t.jsonl", [{"question": "a?", "answer": "ab"}])
    assert repr(grader) in refusal(lambda: make_task("rows", path=path, grader=grader))


@pytest.mark.parametrize(("name", "count"), [("gsm8k_train", 1000), ("gsm8k_test", 400)])
def test_every_gold_answer_of_gsm8k_grades_one(name, count):
    path = DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here: the data folder is not part of the project")
    task = make_task("rows", path=str(path), answer_pattern="#### (.+)", grader="numeric")
    examples = task.examples()
    golds = [json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()]
    assert len(examples) == len(golds) == count
    assert {task.reward(e, gold) for e, gold in zip(examples, golds, strict=True)} == {RIGHT}
    assert {task.reward(e, f"**${e.answer}.00**") for e in examples[:50]} == {RIGHT}
    shifted = zip(examples, golds[1:] + golds[:1], strict=True)
    assert sum(task.reward(e, gold).reward for e, gold in shifted) < 0.1 * count
