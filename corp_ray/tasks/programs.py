"""Tasks whose answer is a Python program that must pass tests, run in the sandbox.

The reward is 1 when all tests of a row pass, else 0. The tests that the prompt shows are those
that grade, as these sets publish them: a program that knows them by heart passes. See
docs/method.md, "Model-written code".
"""

from __future__ import annotations

import ast
import builtins
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import Messages, chat
from corp_ray.tasks.program_text import Found, defines, find_program
from corp_ray.tasks.sandbox import Limits, ProgramTests, Sandbox, SandboxError
from corp_ray.tasks.sandbox.probe import described
from corp_ray.tasks.sources import Family, Row, Upstream, lacking

_VERSION = 1  # of sandbox, extraction and limits together
LIMITS = Limits(cpu_s=5, wall_s=30.0)
FORM = (
    "Answer with the whole program, imports included, in one ```python code block. "
    "Use nothing but Python's standard library."
)


class ProgramsTask(Family):
    """What the families share: rows, the sandbox, grading.

    `sandbox`: "auto" takes what walls the machine has, and logs what they leave open; "strict"
    refuses to start where anything is left open. Errors: TaskError.
    """

    kind = ""

    def __init__(self, *, sandbox: str = "auto", **source: str):
        super().__init__(**source)
        self._sandbox = Sandbox(LIMITS)
        self._lock = threading.Lock()
        self._said = False
        python = ".".join(map(str, sys.version_info[:2]))
        self.version = f"{self.kind} {_VERSION} python {python}"
        if sandbox == "strict":
            self._refuse_what_is_open()

    def examples(self) -> Sequence[Example]:
        return [self._example(place, row) for place, row in self._rows()]

    def _example(self, place: str, row: Row) -> Example:
        raise NotImplementedError

    def prompt(self, example: Example) -> Messages:
        return chat(self._system_prompt, example.question)

    def gold(self, example: Example) -> str:
        return example.answer

    def reward(self, example: Example, text: str) -> Grade:
        tests, before = example.data
        found = self._program(text, tests)
        if found is None:
            return Grade(0.0, WRONG_FORMAT, 0.0)
        form = float(found.asked_form)
        try:
            with self._lock:
                self._say_what_is_open()
                verdict = self._sandbox.run(before + found.source, tests)
        except SandboxError as error:
            logging.getLogger(__name__).warning("%s %s: %s", self.kind, example.id, error)
            return Grade(0.0, VERIFIER_ERROR, form)
        return Grade(float(verdict.passed), GRADED, form)

    def answer(self, example: Example, text: str) -> str | None:
        """The text of the program, which is not run."""
        found = self._program(text, example.data[0])
        return None if found is None else found.source.rstrip()

    def _program(self, text: str, tests: ProgramTests) -> Found | None:
        return find_program(text, tests.names)

    def notes(self) -> list[str]:
        """What a person should know of this machine: the sandbox's layers and what is open."""
        try:
            return [described(self._sandbox)[0]]
        except SandboxError as error:
            return [f"sandbox: {error}"]

    def _refuse_what_is_open(self) -> None:
        try:
            line, opened = described(self._sandbox)
        except SandboxError as error:
            raise TaskError(f"task.sandbox='strict': {error}") from error
        if opened:
            raise TaskError(f"task.sandbox='strict': refused on this machine ({line})")

    def _say_what_is_open(self) -> None:
        """Once, before the first program runs: a warning where anything is."""
        if self._said:
            return
        line, opened = described(self._sandbox)
        logging.getLogger(__name__).log(logging.WARNING if opened else logging.INFO, "%s", line)
        self._said = True

    def close(self) -> None:
        self._sandbox.close()


def text_of(row: Row, names: Sequence[str], place: str) -> str:
    """The first of the fields that holds a text. Errors: TaskError."""
    for name in names:
        if isinstance(row.get(name), str) and row[name].strip():
            return row[name].replace("\r\n", "\n")
    raise lacking(place, row, names[0])


def fenced(source: str) -> str:
    return f"```python\n{source.strip(chr(10))}\n```"


class MBPPTask(ProgramsTask):
    """google-research-datasets/mbpp, "full" or "sanitized", or rows as RandOpt prepares them
    (`reward_model.ground_truth`)."""

    kind = "mbpp"
    upstream = Upstream(
        "google-research-datasets/mbpp", subset="full", split="train+validation+test", folder="mbpp"
    )

    def _example(self, place: str, row: Row) -> Example:
        if isinstance(row.get("reward_model"), dict):
            question = (row.get("extra_info") or {}).get("text")
            row = {
                "text": question,
                **(row["reward_model"].get("ground_truth") or {}),
                **(row.get("extra_info") or {}),
            }
        text = text_of(row, ("text", "prompt"), place)
        source = text_of(row, ("code",), place)
        tests = [test.replace("\r\n", "\n").strip() for test in _texts(row, "test_list", place)]
        if not tests:
            raise TaskError(f"{place}: 'test_list' is empty")
        setup = "\n".join(
            [*_texts(row, "test_imports", place), *_texts(row, "test_setup_code", place)]
        )
        setup = setup.replace("\r\n", "\n").strip()
        shown = "\n".join([setup, *tests] if setup else tests)
        question = f"{text}\n\nThe program must pass these tests:\n```\n{shown}\n```\n{FORM}"
        return Example(
            str(row.get("task_id", place)),
            question,
            fenced(source),
            (split_names(place, setup, tests, source), ""),
        )


def _texts(row: Row, name: str, place: str) -> list[str]:
    given = row.get(name)
    given = [given] if isinstance(given, str) else list(given if given is not None else [])
    if not all(isinstance(text, str) for text in given):
        raise TaskError(f"{place}: {name!r} holds something that is no text")
    return [text for text in given if text.strip()]


def split_names(place: str, setup: str, tests: Sequence[str], reference: str) -> ProgramTests:
    """The tests with the names that the program must define: those that setup and tests use and do not
    define, built-ins only where the reference redefines them.

    Modules that tests take from the reference's imports are imported beside the tests.
    Errors: TaskError for what is not Python.
    """
    parsed = [_parsed(place, "a test", text) for text in (setup, *tests)]
    theirs = _parsed(place, "the reference program", reference)
    used, bound = set[str](), set[str]()
    for tree in parsed:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            bound.update(_bound_by(node))
    imports = {
        name: ast.unparse(node)
        for node in theirs.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _bound_by(node)
    }
    defined = set(_defined(theirs))
    missing = used - bound
    borrowed = dict.fromkeys(imports[name] for name in sorted(missing & set(imports) - defined))
    missing -= set(imports) - defined
    names = sorted(n for n in missing if n in defined or not hasattr(builtins, n))
    if not names:
        raise TaskError(f"{place}: the tests call nothing that a program would define")
    return ProgramTests(tuple(tests), tuple(names), "\n".join([*borrowed, setup]).strip())


def _parsed(place: str, what: str, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings(action="ignore"):  # "\d" in a string: their style, not ours
            return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise TaskError(f"{place}: {what} is not Python ({error}): {text[:60]!r}") from error


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))


class HumanEvalTask(ProgramsTask):
    """openai/openai_humaneval: complete a function whose head and docstring are given.

    A body without its head is taken as the completion. What the prompt defines beside the
    function, imports among it, stands before the program, and before the tests.
    """

    kind = "humaneval"
    upstream = Upstream("openai/openai_humaneval", split="test", folder="humaneval")

    def _example(self, place: str, row: Row) -> Example:
        head, test, name = (
            text_of(row, (field,), place) for field in ("prompt", "test", "entry_point")
        )
        solution = text_of(row, ("canonical_solution",), place)
        _parsed(place, "'prompt'", head)
        _parsed(place, "'test'", test)
        question = f"Complete this function:\n```python\n{head.rstrip()}\n```\n{FORM}"
        # In the prompt the function has a docstring and no body: fit to be run beside the tests.
        setup = f"candidate = {name}\n{head}\n{name} = candidate\n{test}"
        tests = ProgramTests(("check(candidate)",), (name,), setup)
        data = tests, f"{head}\n"
        return Example(str(row.get("task_id", place)), question, fenced(head + solution), data)

    def _program(self, text: str, tests: ProgramTests) -> Found | None:
        found, (name,) = super()._program(text, tests), tests.names
        if found and defines(found.source, name):
            return found
        source = found.source if found else text.replace("\r\n", "\n")
        indented = re.match(r"\s*^[ \t]+\S", source, re.M)
        return Found(source, bool(found and found.asked_form)) if indented else found
