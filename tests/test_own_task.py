"""A task of one's own: one Python file, in a run as in the README, and each mistake one line."""

import inspect
import json
import pickle
import re
import subprocess
import sys
import traceback

import pytest

from corp_ray import config
from corp_ray.config_checks import task_kind
from corp_ray.errors import ConfigError, TaskError
from corp_ray.preparation import prepare
from corp_ray.records import GRADED, OUTCOMES, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.settings import TaskConfig
from corp_ray.tasks import Task, make_task
from corp_ray.tasks.settings import portable
from tests import runs
from tests.pico import pico_llama

FUNCTIONS = """
def examples():
    for n in range(5):
        yield {"question": f"say {n}", "answer": n, "extra": [n]}

def reward(example, text):
    return float(text == example.answer)
"""
CLASS = """
from dataclasses import dataclass
from corp_ray.records import Example, Grade

@dataclass
class _Extra:
    number: int

class Saying:
    version = "2"
    in_place = True

    def __init__(self, count=3, start=0):
        self.numbers = range(start, start + count)

    def examples(self):
        return [Example(f"n{n}", f"say {n}", str(n), _Extra(n)) for n in self.numbers]

    def prompt(self, example):
        return [{"role": "user", "content": example.question + "!"}]

    def reward(self, example, text):
        return Grade(1.0 if text == example.answer else 0.25, "graded", 0.5)

    def gold(self, example):
        return example.answer
"""


@pytest.fixture
def own(tmp_path):
    """Make the task of a file that holds `source`."""

    def make(source, name="my_task.py", **settings):
        (tmp_path / name).write_text(source, "utf-8")
        return make_task("python_file", path=str(tmp_path / name), **settings)

    return make


def refusal(make):
    with pytest.raises(TaskError) as raised:
        make()
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def readme_example():
    """The code of the README's section, as a reader would copy it."""
    section = (runs.ROOT / "README.md").read_text().partition("## A task of your own")[2]
    return section.partition("```python\n")[2].partition("```")[0]


def test_two_functions_are_a_task(own):
    task = own(FUNCTIONS, system_prompt="Be brief.")
    assert isinstance(task, Task)
    examples = task.examples()
    assert examples[1] == Example(
        "1", "say 1", "1", {"question": "say 1", "answer": 1, "extra": [1]}
    )
    assert task.prompt(examples[1]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "say 1"},
    ]
    assert task.reward(examples[1], "1") == Grade(1.0, GRADED)
    assert task.reward(examples[1], "2") == Grade(0.0, GRADED)
    assert task.in_place is False


def test_a_class_is_a_task_with_its_own_arguments(own):
    task = own(CLASS, arguments={"count": 2, "start": 7})
    assert isinstance(task, Task)
    examples = task.examples()
    assert [e.id for e in examples] == ["n7", "n8"]
    assert task.prompt(examples[0]) == [{"role": "user", "content": "say 7!"}]
    assert task.reward(examples[0], "7") == Grade(1.0, GRADED, 0.5)
    assert task.reward(examples[0], "8") == Grade(0.25, GRADED, 0.5)
    assert task.in_place is True
    assert task.gold(examples[0]) == "7"
    assert not hasattr(task, "wrong")
    assert pickle.loads(pickle.dumps(examples[0])) == examples[0]  # data of the file's own class


def test_functions_take_arguments_too_and_reward_may_take_the_answer(own):
    source = """
def examples(word, times=2):
    return [dict(id=f"x{n}", question=word * (n + 1), answer=word) for n in range(times)]
def reward(answer, text):
    assert isinstance(answer, str)
    return answer in text
"""
    task = own(source, arguments={"word": "ab"})
    examples = task.examples()
    assert [(e.id, e.question) for e in examples] == [("x0", "ab"), ("x1", "abab")]
    assert task.reward(examples[0], "cabs") == Grade(1.0, GRADED)
    assert "word" in refusal(own(source).examples)
    assert "my_task.py" in refusal(own(source, arguments={"words": 1}).examples)


def test_a_base_class_and_private_helpers_are_not_tasks(own):
    source = CLASS + "\nclass Louder(Saying):\n    pass\n\nclass _Other(Saying):\n    pass\n"
    source = source.replace("class Saying:", "class Saying:\n    loud = 1")
    assert type(own(source).examples()[0]) is Example
    two = CLASS + CLASS.replace("Saying", "Telling")
    assert "Saying, Telling" in refusal(lambda: own(two))


def test_the_version_changes_with_text_arguments_and_name(own):
    versions = [
        own(FUNCTIONS).version,
        own(FUNCTIONS + "# another remark\n").version,
        own(FUNCTIONS, arguments={"a": 1}).version,
        own(FUNCTIONS, arguments={"a": 2}).version,
        own(FUNCTIONS, name="other.py").version,
        own(CLASS).version,
    ]
    assert len(set(versions)) == len(versions)
    assert re.fullmatch(r"file my_task\.py [0-9a-f]{16}", versions[0])
    assert own(FUNCTIONS).version == versions[0]
    assert versions[-1].endswith(" 2")  # the class's own


BROKEN = {
    "no file's text": ("", ["no examples()", "no reward()", "one class"]),
    "no reward": ("def examples(): pass", ["no reward()"]),
    "no examples": ("def reward(example, text): pass", ["no examples()"]),
    "no prompt": (CLASS.replace("def prompt", "def ask"), ["class Saying has no prompt"]),
    "class and function": (CLASS + FUNCTIONS, ["class Saying", "function examples()"]),
    "syntax": ("x = 1\ny = (\n", ["my_task.py line 2"]),
    "null byte": ("x = 1\n\0", ["my_task.py line 2: a null byte"]),
    "import of a neighbour": (
        "import my_neighbour",
        ["line 1", "my_neighbour", "no file beside it"],
    ),
    "relative import": ("from . import x", ["line 1", "no file beside it"]),
    "raises": ("x = 1\n\nraise KeyError('a\\nb')", ["line 3", "KeyError"]),
    "exits": ("import sys\nsys.exit(3)", ["line 2", "SystemExit: 3"]),
    "reward of one": ("def examples(): pass\ndef reward(text): pass", ["reward() must take"]),
    "reward of three": (
        "def examples(): pass\ndef reward(a, b, c): pass",
        ["reward() must take (example, text)", "'c'"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_file_lacks_is_one_line_that_names_it(own, case):
    source, parts = BROKEN[case]
    line = refusal(lambda: own(source))
    assert all(part in line for part in ["my_task.py", *parts]), line


EXAMPLES = {
    "raises": ("yield 1/0", ["examples() failed", "line 2", "ZeroDivisionError"]),
    "nothing": ("return []", ["no example"]),
    "none": ("return None", ["examples() failed", "NoneType"]),
    "texts": ("yield 'a'", ["item 1", "'a'", "dict or an Example"]),
    "no answer": ("yield {'question': 'a', 'x': 1}", ["item 1", "'answer'", "question, x"]),
    "empty": ("yield {'question': '', 'answer': 1}", ["item 1", "'question'"]),
    "no end": ("while True: yield {'question': 'a', 'answer': 1}", ["more than 1,000 examples"]),
    "exits": ("raise SystemExit(1)", ["examples() failed", "SystemExit"]),
}


@pytest.mark.parametrize("case", EXAMPLES)
def test_what_examples_does_wrong_is_one_line(own, case, monkeypatch):
    monkeypatch.setattr("corp_ray.tasks.python_file._MOST", 1000)
    body, parts = EXAMPLES[case]
    task = own(f"def examples():\n    {body}\ndef reward(example, text): return 0\n")
    line = refusal(task.examples)
    assert all(part in line for part in ["my_task.py", *parts]), line


REWARDS = {
    "1/0": ["my_task.py line 3", "ZeroDivisionError"],
    "1.5": ["1.5", "[0, 1]"],
    "-0.1": ["-0.1"],
    "float('nan')": ["nan"],
    "None": ["NoneType"],
    "'1'": ["'1'"],
    "[1]": ["list"],
    "exit(1)": ["SystemExit"],
    "Grade(2.0)": ["2.0"],
    "Grade(1.0, 'fine')": ["'fine'"],
}


@pytest.mark.parametrize("body", REWARDS)
def test_a_reward_that_fails_is_an_outcome_with_its_reason(own, body):
    head = "from corp_ray.records import Grade\ndef reward(example, text):\n    return "
    task = own(head + body + "\ndef examples(): yield {'question': 'a', 'answer': 1}\n")
    grade = task.reward(task.examples()[0], "text")
    assert grade == Grade(0.0, VERIFIER_ERROR)
    assert all(part in grade.reason for part in REWARDS[body]), grade.reason
    assert "\n" not in grade.reason


@pytest.mark.parametrize(
    ("value", "reward"),
    [("True", 1.0), ("1", 1.0), ("numpy.float32(0.5)", 0.5), ("numpy.bool_(1)", 1.0)],
)
def test_any_number_is_a_reward(own, value, reward):
    source = f"import numpy\ndef reward(example, text): return {value}\ndef examples(): pass\n"
    grade = own(source).reward(Example("0", "a", "b"), "text")
    assert grade == Grade(reward, GRADED)
    assert type(grade.reward) is float


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("return 3", ["prompt() gave 3"]),
        ("return []", ["prompt() gave []"]),
        ("return [{'role': 'user'}]", ["prompt() gave", "role and content"]),
        ("return example.nothing", ["prompt() failed", "nothing", "line 4"]),
    ],
)
def test_a_prompt_that_is_no_prompt_is_one_line(own, body, parts):
    head = "def examples(): pass\ndef reward(example, text): return 0\n"
    task = own(f"{head}def prompt(example):\n    {body}\n")
    line = refusal(lambda: task.prompt(Example("0", "a", "b")))
    assert all(part in line for part in ["my_task.py", *parts]), line


def test_a_system_prompt_beside_messages_of_ones_own_is_refused(own):
    task = own(CLASS, system_prompt="Be brief.")
    assert "'Be brief.'" in refusal(lambda: task.prompt(task.examples()[0]))


def test_arguments_that_a_class_does_not_take_are_named(own):
    assert 'task.arguments={"many": 3}' in refusal(lambda: own(CLASS, arguments={"many": 3}))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.py").write_bytes("# é".encode("latin-1"))
    (tmp_path / "folder.py").mkdir()
    for name in ("absent.py", "latin.py", "folder.py"):
        path = str(tmp_path / name)
        assert name in refusal(lambda path=path: make_task("python_file", path=path))


def test_the_text_travels_and_the_file_is_not_needed(own, tmp_path):
    here = own(CLASS, arguments={"count": 2})
    settings = portable(
        {"kind": "python_file", "path": str(tmp_path / "my_task.py"), "arguments": {"count": 2}}
    )
    (tmp_path / "my_task.py").unlink()
    code = """
import json, pickle, sys, traceback
from corp_ray.tasks import make_task
task = make_task(**json.loads(sys.argv[1]))
example = pickle.loads(bytes.fromhex(sys.argv[2]))
print(task.version)
print(task.reward(example, "0").reward, example.data.number)
try:
    task._reward(None, "")
except AttributeError:
    print(traceback.format_exc())
"""
    example = pickle.dumps(here.examples()[0]).hex()
    other = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings), example],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = other.stdout.splitlines()
    assert lines[:2] == [here.version, "1.0 0"]
    assert f'File "{tmp_path}/my_task.py"' in other.stdout
    assert (
        "return Grade(1.0 if text == example.answer" in other.stdout
    )  # the line, without the file


def test_tracebacks_and_inspect_show_the_file_as_it_was_loaded(own):
    task = own(FUNCTIONS)
    try:
        task._reward(None, "")
    except AttributeError as error:
        shown = traceback.format_exception(error)
        assert "return float(text == example.answer)" in "".join(shown)
    assert "def reward" in inspect.getsource(task._reward)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"path": "a.py"}, "python_file"),
        ({"path": "a.py", "kind": "gsm8k"}, "python_file"),
        ({"path": "a.jsonl"}, "rows"),
        ({"path": "a.jsonl", "kind": "countdown"}, "countdown"),
        ({"dataset": "chain_sum"}, "reasoning_gym"),
        ({"dataset": "chain_sum", "path": "a.jsonl", "kind": "reasoning_gym"}, "reasoning_gym"),
        ({"kind": "rocstories"}, "rocstories"),
    ],
)
def test_the_kind_follows_from_what_is_set(settings, kind):
    task = TaskConfig(**settings)
    assert task_kind(task) == config.task_settings(task)["kind"] == kind
    config.load(None, ["run.id=r", "model.path=m", *(f"task.{k}={v}" for k, v in settings.items())])


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ([], ["task.dataset=''", "task.path"]),
        (["task.dataset=a", "task.path=b.jsonl"], ["task.kind='auto'", "both"]),
    ],
)
def test_settings_from_which_no_kind_follows_are_named(settings, parts):
    with pytest.raises(ConfigError) as raised:
        config.load(None, ["run.id=r", "model.path=m", *settings])
    assert all(part in str(raised.value) for part in parts), raised.value


def test_a_run_names_its_task_in_one_line(tmp_path):
    conf = str(runs.workspace(tmp_path, **{f"splits.{n}": 2 for n in ("support", "gate", "test")}))
    (tmp_path / "my_task.py").write_text(CLASS)
    puzzles = [{"nums": [n, 2], "target": n + 2} for n in range(200)]
    (tmp_path / "countdown").mkdir()
    (tmp_path / "countdown/train.jsonl").write_text("".join(json.dumps(p) + "\n" for p in puzzles))

    def name(*settings):
        prepared = prepare(config.load(conf, settings))
        assert pickle.loads(pickle.dumps(prepared.task)) == prepared.task
        return prepared.task_name

    own = [f"task.path={tmp_path}/my_task.py", "task.arguments={count: 200}"]
    assert name(*own) == 'my_task.py {"count": 200}, a task of its own'
    assert name() == "task.jsonl, graded by numeric"
    family = ["task.kind=countdown", f"task.path={tmp_path}/countdown", "task.grader=exact"]
    assert name(*family) == "countdown of countdown"
    assert name(*family, "task.split=train") == "countdown of countdown train"
    gym = ["task.kind=reasoning_gym", "task.dataset=chain_sum", "task.arguments={min_terms: 3}"]
    assert name(*gym) == 'reasoning-gym chain_sum {"min_terms": 3}'


def test_the_readmes_example_is_short_and_does_what_it_says(own):
    source = readme_example()
    assert source.startswith('"""')
    assert len(source.splitlines()) < 30
    task = own(source)
    examples = task.examples()
    assert len({task.prompt(e)[0]["content"] for e in examples}) > 2500
    for example in examples[:50]:
        length = len(example.question)
        assert task.prompt(example)[0]["content"].split()[4] == example.question
        assert task.reward(example, f" {length}\n") == Grade(1.0, GRADED)
        assert task.reward(example, str(length + 1)) == Grade(0.75, GRADED)
        assert task.reward(example, "many") == Grade(0.0, WRONG_FORMAT)
    assert examples == own(source, name="again.py").examples()


def test_the_readmes_commands_take_the_example(tmp_path):
    """With everything that conf/own.yaml has, and no setting of another task."""
    section = (runs.ROOT / "README.md").read_text().partition("## A task of your own")[2]
    commands = re.findall(r"^    python -m jobs\.(\w+) (.*)$", section.partition("\n## ")[0], re.M)
    assert [job for job, _ in commands] == ["doctor", "posttrain"]
    (tmp_path / "my_task.py").write_text(readme_example())
    pico_llama(tmp_path / "model")
    for _, arguments in commands:
        flag, conf, path = arguments.split()
        assert (flag, path) == ("--config", "task.path=my_task.py")
        changes = [f"task.path={tmp_path}/my_task.py", f"model.path={tmp_path}/model"]
        found = prepare(config.load(str(runs.ROOT / conf), changes))
        assert found.task_name == "my_task.py, a task of its own"


def test_a_run_with_the_readmes_example_commits_a_better_model(tmp_path, ray_address):
    conf = runs.workspace(tmp_path)
    path = tmp_path / "my_task.py"
    path.write_text(readme_example())
    settings = [f"task.path={path}", "engine.kind=tests.fake_engine:FakeCounter"]
    code, out, err = runs.run(conf, *settings, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert "my_task.py" in err
    assert "committed model:" in out
    root = tmp_path / "runs/run"
    (row,) = [
        r
        for r in json.loads((root / "report/test.json").read_text())["test"]
        if r["name"] == "committed"
    ]
    assert row["gain"] > 0.1
    outcomes = {o for r in runs.rows(root) for o in r["outcomes"]}
    assert outcomes == {OUTCOMES.index(GRADED)}
    # An edited file is another task: its rewards are never mixed with the first one's.
    path.write_text(readme_example().replace("/ 4", "/ 5"))
    code, _, err = runs.run(conf, *settings, RAY_ADDRESS=ray_address)
    assert code == 2, err
    assert "task_version has changed" in err
