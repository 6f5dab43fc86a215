"""Checks of a task's grader: right answers, wrong ones, and the format that its prompt asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from corp_ray.doctor_splits import named
from corp_ray.findings import OK, PROBLEM, WARNING, Finding
from corp_ray.records import VERIFIER_ERROR, Example, Grade

Grades = Callable[[Sequence[Example], Sequence[str]], list[Grade]]

_EMPTY_WORDS = ("", "I do not know.")
_TRIED = 50  # examples whose answers are exchanged or rewrapped
_SHORTCUT = 0.10  # mean reward from which a text that took no thought deserves a warning
# What prompts ask for, and the same answer written so.
_FORMATS: dict[str, Callable[[str], str]] = {
    "\\boxed": lambda answer: f"The answer is \\boxed{{{answer}}}.",
    "####": lambda answer: f"So this is it.\n#### {answer}",
    "<answer>": lambda answer: f"<answer>{answer}</answer>",
    "```": lambda answer: f"```python\n{answer}\n```",
}


def check_gold(
    examples: Sequence[Example], texts: Sequence[str], grades: Sequence[Grade]
) -> Iterator[Finding]:
    """Right answers must be graded 1."""
    pairs = list(zip(examples, texts, grades, strict=True))
    broken = [(e, g) for e, _, g in pairs if g.outcome == VERIFIER_ERROR]
    if broken:
        example, grade = broken[0]
        yield Finding(
            "gold",
            PROBLEM,
            f"the verifier failed on {len(broken)} of {len(pairs)} right answers, first on "
            f"{example.id}: {grade.reason or 'no reason given'}",
        )
    low = [(e, t, g) for e, t, g in pairs if g.outcome != VERIFIER_ERROR and g.reward < 1.0]
    if low:
        example, text, grade = low[0]
        yield Finding(
            "gold",
            PROBLEM,
            f"{len(low)} of {len(pairs)} right answers are not graded 1 ({named([e for e, *_ in low])}); "
            f"{text[:60]!r} of {example.id} gets {grade.reward:g}, {grade.outcome}",
        )
    if not broken and not low:
        yield Finding("gold", OK, f"{len(pairs)} right answers are graded 1")


def check_wrong(
    task: Any, examples: Sequence[Example], gold: Sequence[str], grades: Grades
) -> Iterator[Finding]:
    """Texts without an answer, the task's own wrong ones and other examples' answers must not pass."""
    some = examples[:_TRIED]
    for words in _EMPTY_WORDS:
        paid = [g for g in grades(some, [words] * len(some)) if g.reward > 0.0]
        if paid:
            text = f"{words!r} is graded above 0 on {len(paid)} of {len(some)} examples"
            yield Finding("wrong", PROBLEM, text)
    own = [(e, text) for e in some for text in getattr(task, "wrong", lambda _: ())(e)]
    paid_own = _graded_above(own, grades, 0.0)
    if paid_own:
        example, text = paid_own[0]
        said = (
            f"{len(paid_own)} of the task's wrong answers are graded above 0, first {text[:60]!r}"
        )
        yield Finding("wrong", PROBLEM, f"{said} of {example.id}")
    others = [
        (example, gold[(place + 1) % len(gold)])
        for place, example in enumerate(some)
        if examples[(place + 1) % len(examples)].answer != example.answer
    ]
    passed = _graded_above(others, grades, 0.999)
    if len(passed) > len(others) // 20:
        example, text = passed[0]
        yield Finding(
            "wrong",
            PROBLEM,
            f"{len(passed)} of {len(others)} answers to another question are graded 1, first "
            f"{text[:60]!r} on {example.id}, whose answer is {example.answer[:60]!r}",
        )
    elif not paid_own:
        yield Finding("wrong", OK, f"{len(others) + len(own)} wrong answers and empty words fail")


def _graded_above(
    answers: Sequence[tuple[Example, str]], grades: Grades, limit: float
) -> list[tuple[Example, str]]:
    if not answers:
        return []
    found = grades([e for e, _ in answers], [text for _, text in answers])
    return [answer for answer, grade in zip(answers, found, strict=True) if grade.reward > limit]


def check_shortcuts(
    examples: Sequence[Example], gold: Sequence[str], grades: Grades
) -> Iterator[Finding]:
    """What texts earn that take no thought: one answer to every question, and the question itself.

    A search finds these before anything that is harder to learn, and no reward tells them apart.
    """
    ((common, _),) = Counter(gold).most_common(1)
    always = _mean_reward(grades(examples, [common] * len(examples)))
    echo = _mean_reward(grades(examples, [example.question for example in examples]))
    text = (
        f"mean reward on {len(examples)} examples for always writing {common[:40]!r}: {always:.3f}; "
        f"for repeating the question: {echo:.3f}"
    )
    if max(always, echo) <= _SHORTCUT:
        yield Finding("shortcuts", OK, text)
        return
    advice = "; a model can gain that much without solving any, so read what it writes"
    yield Finding("shortcuts", WARNING, text + advice)


def _mean_reward(grades: Sequence[Grade]) -> float:
    return sum(grade.reward for grade in grades) / len(grades)


def check_format(
    task: Any, examples: Sequence[Example], gold: Sequence[str], grades: Grades
) -> Iterator[Finding]:
    """The format that the prompt asks for must be one that the grader takes."""
    some = examples[:_TRIED]
    asked = _asked(task, some[0])
    own = hasattr(task, "gold")
    for marker in asked:
        if own and any(marker in text for text in gold):
            continue  # the task's gold answers are in that format and have been graded
        texts = [_FORMATS[marker](example.answer) for example in some]
        low = [g for g in grades(some, texts) if g.reward < 1.0]
        if low:
            yield Finding(
                "format",
                PROBLEM,
                f"format mismatch: the prompt asks for {marker!r}, and {len(low)} of {len(some)} right "
                f"answers written so are not graded 1 ({texts[0][:60]!r})",
            )
            return
    if not asked:
        yield from _needed(task, some, gold, grades)
        return
    yield Finding("format", OK, f"the prompt asks for {', '.join(asked)}, which the grader takes")


def _asked(task: Any, example: Example) -> list[str]:
    text = "\n".join(message["content"] for message in task.prompt(example))
    return [marker for marker in _FORMATS if marker in text]


def _needed(
    task: Any, some: Sequence[Example], gold: Sequence[str], grades: Grades
) -> Iterator[Finding]:
    """A prompt that asks for no format: the grader must not insist on one."""
    plain = [g.reward for g in grades(some, list(gold[: len(some)]))]
    for marker, written in _FORMATS.items():
        texts = [written(example.answer) for example in some]
        framed = [g.reward for g in grades(some, texts)]
        if sum(framed) > sum(plain):
            yield Finding(
                "format",
                PROBLEM,
                f"format mismatch: the grader reads answers as {texts[0][:60]!r}, the prompt does not "
                f"ask for {marker!r}",
            )
            return
    system = " ".join(m["content"] for m in task.prompt(some[0]) if m["role"] == "system")
    level = OK if system or hasattr(task, "gold") else WARNING
    text = "the prompt names no answer format, and the grader takes the bare answer"
    yield Finding("format", level, text)
