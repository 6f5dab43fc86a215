"""Mathematical answers: what is equal is accepted, what is not is refused, whatever a text holds;
a child that hangs costs one answer."""

from __future__ import annotations

import itertools
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import Task, make_task, mathematics
from corp_ray.tasks.mathematics import LIMIT_S, Mathematics, final_answer
from tests.mathematics_pairs import EQUAL, UNEQUAL
from tests.runs import ROOT

DATA = ROOT.parent / "shared/data"
RIGHT, WRONG = Grade(1.0, GRADED, 1.0), Grade(0.0, GRADED, 1.0)


@pytest.fixture(scope="module")
def grader():
    made = Mathematics(limit_s=60)  # a busy machine must not turn an answer into an error
    yield made
    made.close()


def parts(pair):
    gold, said, *tolerances = pair
    return [gold] if isinstance(gold, str) else gold, said, tolerances


def test_equal_and_unequal_answers_are_told_apart_without_an_error(grader):
    assert len(EQUAL) >= 50 and len(UNEQUAL) >= 50 and len(EQUAL) + len(UNEQUAL) >= 120
    wrong = []
    for pair, reward in [*((p, 1.0) for p in EQUAL), *((p, 0.0) for p in UNEQUAL)]:
        gold, said, tolerances = parts(pair)
        grade = grader.grade(gold, f"So it is \\boxed{{{said}}}.", tolerances)
        expected = Grade(reward, GRADED, 1.0) if said else Grade(0.0, WRONG_FORMAT, 0.0)
        if grade != expected:
            wrong.append((pair, grade))
    assert wrong == []


def test_every_right_answer_of_the_table_equals_itself(grader):
    for pair in [*EQUAL, *UNEQUAL]:
        gold, _, _ = parts(pair)
        assert grader.grade(gold, f"\\boxed{{{', '.join(gold)}}}") == RIGHT, gold


ANSWERS = {
    r"so \boxed{1}, no: $\boxed{\frac{1}{2}}$.": (r"\frac{1}{2}", True),
    r"\boxed{a} and then \boxed{\text{b } \{1\}}": (r"\text{b } \{1\}", True),
    r"\boxed{2} or \boxed{3}": ("2, 3", True),
    r"$\boxed{2}$, $\boxed{3}$": ("2, 3", True),
    r"\boxed{2}, so \boxed{2}": ("2", True),
    r"\fbox{7}": ("7", True),
    r"\boxed{5} and cut off \boxed{6": ("5", True),
    r"\boxed{} #### 4": ("4", False),
    "#### 3x+1\ndone": ("3x+1", False),
    r"The answer is $\frac12$. Check: $5$": (r"\frac12", False),
    "The final answer is: $x=1$ or $x=2$.": ("x=1, x=2", False),
    "**Answer:** 2x+3": ("2x+3", False),
    "then $x=2$, hence $x+1=3$": ("x+1=3", False),
    r"thus \[ x = 4 \] as asked": ("x = 4", False),
    "we get $2x$ for 12 items": ("12", False),
    "nothing to see": (None, False),
    "": (None, False),
}


@pytest.mark.parametrize(("text", "expected"), ANSWERS.items(), ids=repr)
def test_the_answer_of_a_text_is_the_one_a_person_finds(text, expected):
    assert final_answer(text) == expected


def test_a_text_without_an_answer_has_the_wrong_format_and_a_box_is_the_asked_one(grader):
    assert grader.grade(["2x"], "I do not know") == Grade(0.0, WRONG_FORMAT, 0.0)
    assert grader.grade(["2x"], r"The answer is $x+x$.") == Grade(1.0, GRADED, 0.0)
    assert grader.grade(["2x"], r"\boxed{x+x}") == RIGHT


@pytest.mark.parametrize(("answer", "at_most_s"), [("hang", 1.0), ("die", 60.0)])
def test_a_child_that_hangs_or_dies_costs_that_answer_alone(answer, at_most_s):
    grader = Mathematics(limit_s=60, child="tests.hanging_mathematics_child")
    try:
        assert grader.grade([r"\sqrt{8}"], r"\boxed{2\sqrt{2}}") == RIGHT
        grader._limit_s = at_most_s
        assert grader.grade([r"\sqrt{8}"], rf"\boxed{{{answer}}}").outcome == VERIFIER_ERROR
        grader._limit_s = 60
        assert grader.grade([r"\sqrt{8}"], r"\boxed{2\sqrt{2}}") == RIGHT
    finally:
        grader.close()


def test_an_answer_that_runs_wild_in_the_library_is_an_error_within_the_limit(grader):
    grader.start()
    grader._limit_s = 1.0
    start = time.monotonic()
    wild = grader.grade([r"\sqrt{2}"], r"\boxed{((9^{9999})^{9999})^{9999}}")
    grader._limit_s = 60
    assert wild.outcome == VERIFIER_ERROR
    assert time.monotonic() - start < 30
    assert grader.grade([r"\sqrt{2}"], r"\boxed{2^{1/2}}") == RIGHT


def test_a_right_answer_that_cannot_be_read_is_an_error_of_the_verifier(grader):
    assert grader.grade([r"\frac{"], r"\boxed{3}").outcome == VERIFIER_ERROR


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mathematics, "_LIBRARIES", ("no-such-library",))
    with pytest.raises(TaskError, match=r"corp-ray\[math\]"):
        Mathematics()


# --- the three tasks ---

ROWS = {
    "gsm8k": {"question": "How many?", "answer": "9*2 = 18\n#### 18"},
    "math500": {"problem": "How long?", "answer": r"\sqrt{2}", "subject": "Algebra", "level": 2},
    "olympiadbench": {
        "question": "Find all x.",
        "final_answer": [r"$\frac{1}{2}, 2$"],
        "is_multiple_answer": True,
        "answer_type": "Numerical",
        "unit": None,
        "error": None,
        "image_1": None,
    },
}
GOLD = {"gsm8k": "18", "math500": r"\sqrt{2}", "olympiadbench": r"\frac{1}{2}, 2"}


def task_of(tmp_path, kind, *rows, **settings_):
    path = tmp_path / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows or [ROWS[kind]]), "utf-8")
    return make_task(kind, path=str(path), **settings_)


@pytest.mark.parametrize("kind", ROWS)
def test_a_task_asks_for_the_box_that_it_grades(tmp_path, kind):
    task = task_of(tmp_path, kind, system_prompt="Be brief.")
    assert isinstance(task, Task)
    (example,) = task.examples()
    system, user = task.prompt(example)
    assert system == {"role": "system", "content": "Be brief."}
    assert "\\boxed{" in user["content"] and example.question in user["content"]
    assert example.answer == GOLD[kind]
    assert task.reward(example, f"It is $\\boxed{{{GOLD[kind]}}}$.") == RIGHT
    assert task.reward(example, r"It is \boxed{7}.") == WRONG
    assert task.reward(example, "No idea.") == Grade(0.0, WRONG_FORMAT, 0.0)
    assert kind in task.version
    getattr(task, "close", lambda: None)()


def test_rows_in_the_layout_of_the_release_ask_the_same_question(tmp_path):
    asked = 'How many? Let\'s think step by step and output the final answer after "####".'
    truth = {"style": "rule", "ground_truth": "18"}
    rows = [
        {"prompt": [{"role": "user", "content": asked}], "reward_model": truth},
        {"prompt": [{"role": "user", "content": "And?"}], "reward_model": truth},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    task = make_task("gsm8k", path=str(tmp_path / "train.parquet"))
    assert task.examples() == [Example("0", "How many?", "18"), Example("1", "And?", "18")]
    (example,) = task_of(tmp_path, "gsm8k", {"prompt": asked, "reward_model": truth}).examples()
    assert example == Example("0", "How many?", "18")


OLYMPIAD = ROWS["olympiadbench"]
BROKEN = [
    ("gsm8k", {"question": "How many?"}, "'answer'"),
    ("gsm8k", {"question": "How many?", "answer": "#### many"}, "no number"),
    ("gsm8k", {"prompt": "How many?"}, "'reward_model'"),
    ("gsm8k", {"prompt": [], "reward_model": {"ground_truth": "1"}}, "'prompt'"),
    ("gsm8k", {"prompt": "How many?", "reward_model": {}}, "'ground_truth'"),
    ("math500", {"answer": "1"}, "'problem'"),
    ("olympiadbench", {**OLYMPIAD, "image_1": "x.png"}, "image"),
    ("olympiadbench", {**OLYMPIAD, "final_answer": []}, "'final_answer'"),
    ("olympiadbench", {**OLYMPIAD, "error": "small"}, "'error'"),
    ("olympiadbench", {**OLYMPIAD, "error": "nan"}, "'error'"),
]


@pytest.mark.parametrize(("kind", "row", "part"), BROKEN)
def test_a_row_without_what_it_needs_is_named(tmp_path, kind, row, part):
    with pytest.raises(TaskError) as raised:
        task_of(tmp_path, kind, ROWS[kind], row).examples()
    line = str(raised.value)
    assert f"{kind}.jsonl line 2" in line and part in line and "\n" not in line


def test_olympiadbench_takes_its_own_columns_at_their_word(tmp_path):
    rows = [
        {**OLYMPIAD, "final_answer": ["$120,180$"]},
        {**OLYMPIAD, "final_answer": ["$1,200$"], "is_multiple_answer": False, "unit": "cm"},
        {**OLYMPIAD, "final_answer": ["3.14"], "is_multiple_answer": False, "error": "1e-2"},
        {**OLYMPIAD, "answer_type": "Need_human_evaluate"},
        {**OLYMPIAD, "final_answer": ["2.0,3.0"], "error": "0.1,0.01", "context": "Given."},
    ]
    task = task_of(tmp_path, "olympiadbench", *rows)
    pair, length, near, several = task.examples()
    assert "separated by commas" in task.prompt(pair)[0]["content"]
    assert "The unit is cm" in task.prompt(length)[0]["content"]
    assert several.question.startswith("Given.\n\n")
    graded = [
        (pair, "180, 120", RIGHT),
        (pair, "120180", WRONG),
        (length, "1200", RIGHT),
        (length, "1, 200", WRONG),
        (near, r"\pi", RIGHT),
        (near, "3.16", WRONG),
        (several, "3, 2.05", RIGHT),
        (several, "3.05, 2", WRONG),
    ]
    for example, said, expected in graded:
        assert task.reward(example, f"\\boxed{{{said}}}") == expected, (example.answer, said)
    task.close()


# --- GSM8K, all rows ---


def as_written(number):
    """The forms in which models write a number."""
    plain = number.replace(",", "")
    grouped = f"{int(plain):,}" if plain.lstrip("-").isdigit() else number
    yield from (plain, grouped, f"{plain}.", f"${plain}", f"\\${grouped}", f"**{plain}**")
    yield from (
        f"{plain}.00",
        f"\\boxed{{{plain}}}",
        f"\\boxed{{\\${grouped}}}",
        f"$\\boxed{{{plain}}}$",
    )
    yield from (f"#### {plain}", f"#### ${grouped}", f"\\boxed{{{plain}.00}}", f"**${plain}.00**")
    yield from (f"the answer is {plain} dollars", f"The answer is {grouped}.", f"Answer: {plain}")
    yield from (f"\\boxed{{\\text{{{plain} dollars}}}}", f"1 + 1 = {plain}", f"so it is ${plain}$.")
    yield from (f"\\boxed{{{plain} \\text{{ dollars}}}}", f"\\boxed{{x = {plain}}}", f"{plain}\\%")


@pytest.mark.parametrize(("name", "count"), [("gsm8k_train", 1000), ("gsm8k_test", 400)])
def test_every_gold_answer_of_gsm8k_is_right_in_every_form_and_perturbed_ones_are_wrong(
    name, count
):
    path = DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here: the data folder is not part of the project")
    task = make_task("gsm8k", path=str(path))
    examples = task.examples()
    assert len(examples) == count
    golds = [json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()]
    for example, gold in zip(examples, golds, strict=True):
        assert task.reward(example, gold) == Grade(1.0, GRADED, 0.0)
        for text in as_written(example.answer):
            graded = Grade(1.0, GRADED, float("boxed" in text))
            assert task.reward(example, text) == graded, (example.answer, text)
        value = int(example.answer.replace(",", ""))
        for other in (value + 1, value - 1, value * 10 or 7, -value or -7):
            for text in as_written(str(other)):
                assert task.reward(example, text).reward == 0.0, (example.answer, text)
        for text in (f"sqrt({value})", f"{value} or {value + 1}", f"{value}x", f"{value}**9"):
            assert task.reward(example, text).reward == 0.0, (example.answer, text)


# --- whatever a text holds ---

FRAGMENTS = [
    *(
        "\\boxed{",
        "}",
        "{",
        "(",
        ")",
        "[",
        "]",
        "\\{",
        "\\}",
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
    ),
    *(
        "\\frac{",
        "\\frac",
        "\\sqrt{",
        "\\sqrt[3]{",
        "^",
        "^{",
        "_",
        "_{",
        "!",
        "'",
        "|",
        "&",
        "\\\\",
    ),
    *(
        "+",
        "-",
        "*",
        "**",
        "/",
        "=",
        "<",
        ">",
        "\\leq ",
        "\\neq ",
        "\\approx ",
        "\\pm ",
        "\\cup ",
        "%",
    ),
    *(
        "0",
        "1",
        "2",
        "9",
        "18",
        "1,000",
        ".5",
        "1e999999999",
        "99999999",
        "x",
        "n",
        "i",
        "e",
        "\\pi ",
    ),
    *(
        "\\text{",
        "\\text{ cm}",
        " or ",
        " and ",
        ", ",
        ";",
        "\\in ",
        "\\infty ",
        "^\\circ",
        "\\binom{",
    ),
    *(
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\sum_{k=1}^{n} ",
        "\\int_0^1 ",
        "\\log ",
        "\\sin ",
        "dx",
    ),
    *(
        "#### ",
        "The answer is ",
        "answer: ",
        "\n",
        " ",
        ".",
        "²",
        "½",
        "√",
        "−",
        "∞",
        "\u0663",
        "é",
        "中",
    ),
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(lambda p: f"\\boxed{{{''.join(p)}}}"),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.builds(str.__mul__, st.sampled_from(FRAGMENTS), st.integers(0, 3000)),
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    made = {kind: task_of(tmp_path_factory.mktemp("rows"), kind) for kind in ROWS}
    yield {kind: (task, task.examples()[0]) for kind, task in made.items()}
    for task in made.values():
        getattr(task, "close", lambda: None)()


@pytest.mark.parametrize(
    ("kind", "count"), [("gsm8k", 400), ("math500", 300), ("olympiadbench", 200)]
)
def test_no_text_whatever_raises_hangs_or_scores_above_one(tasks, kind, count):
    task, example = tasks[kind]

    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(TEXTS)
    def holds(text):
        start = time.monotonic()
        grade = task.reward(example, text)
        took_s = time.monotonic() - start
        assert took_s < LIMIT_S + 60  # a new child may have to start first
        assert 0.0 <= grade.reward <= 1.0 and grade.format in (0.0, 1.0)
        assert grade.outcome in (GRADED, WRONG_FORMAT) or took_s > LIMIT_S / 2, "the child died"
        assert grade.reward == 0.0 or grade.outcome == GRADED

    holds()


HOSTILE = [
    *("9**9**9", "9^{9^{9}}", "10^{10^{10}}", "(9!)!", "99999999!", "1e999999999", "x^{99999}"),
    *("(" * 300 + "1" + ")" * 300, "\\sqrt{" * 60 + "2" + "}" * 60, "1+" * 900 + "1", "{" * 900),
    *(
        "2^{-99999999}",
        "\\text{" * 300,
        "\\begin{pmatrix}" * 60,
        "1," * 900,
        "\\pm" * 300,
        "9" * 1900,
    ),
]


@pytest.mark.parametrize("kind", ROWS)
def test_what_nobody_can_work_out_is_wrong_at_once(tasks, kind):
    task, example = tasks[kind]
    for answer in itertools.chain(HOSTILE, (a * 20 for a in HOSTILE)):
        grade = task.reward(example, f"\\boxed{{{answer}}}")
        assert grade.reward == 0.0 and grade.outcome != VERIFIER_ERROR, answer[:40]
