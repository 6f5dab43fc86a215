"""Checks of a task's examples: answers, splits that share questions, a gate that can decide."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from corp_ray.findings import OK, PROBLEM, WARNING, Finding
from corp_ray.gate import look_alpha, paired_test
from corp_ray.records import Example

_NAMED = 3  # examples that a finding names
_POWER = 0.8
_DIFFER = 0.2  # share of answers that differ between two models, for an estimate
_COARSE = 0.10  # a gate that finds only gains larger than this


def named(examples: Sequence[Example]) -> str:
    """The first few by id, for a message."""
    ids = ", ".join(example.id for example in examples[:_NAMED])
    return ids + (", ..." if len(examples) > _NAMED else "")


def check_answers(task: Any, drawn: Sequence[Example]) -> Iterator[Finding]:
    """Answers that are missing, and equal prompts with different answers."""
    missing = [example for example in drawn if not str(example.answer).strip()]
    if missing:
        yield Finding("answers", PROBLEM, f"{len(missing)} examples without: {named(missing)}")
    first: dict[str, Example] = {}
    repeated, conflicting = 0, []
    for example in drawn:
        seen = first.setdefault(json.dumps(task.prompt(example), ensure_ascii=False), example)
        if seen is not example:
            repeated += 1
            if seen.answer != example.answer:
                conflicting.append(example)
    if conflicting:
        text = f"{len(conflicting)} prompts come again with another answer: {named(conflicting)}"
        yield Finding("answers", WARNING, text)
    if not missing:
        text = f"every example has one; {repeated:,} repeated prompts are dropped"
        yield Finding("answers", OK, text)


def check_overlap(splits: Mapping[str, Sequence[Example]]) -> Iterator[Finding]:
    """Questions that stand in two splits but for case, white space and punctuation, and ids that do."""
    found = False
    for what, key in (("questions", _plain), ("ids", lambda example: example.id)):
        home: dict[str, str] = {}
        shared: dict[tuple[str, str], list[Example]] = {}
        for name, examples in splits.items():
            for example in examples:
                other = home.setdefault(key(example), name)
                if other != name:
                    shared.setdefault((other, name), []).append(example)
        for (one, other), examples in shared.items():
            found = True
            yield Finding(
                "splits",
                PROBLEM,
                f"{one} and {other} overlap: {len(examples)} {what} are the same but for case, "
                f"space and punctuation ({named(examples)})"
                if what == "questions"
                else f"{one} and {other} share {len(examples)} ids ({named(examples)}): one row twice?",
            )
    if not found:
        sizes = ", ".join(f"{name} {len(examples):,}" for name, examples in splits.items())
        yield Finding("splits", OK, f"{sizes}: disjoint")


def _plain(example: Example) -> str:
    kept = (c if c.isalnum() or c in "+-*/=<>^%.,()" else " " for c in example.question.casefold())
    return " ".join("".join(kept).split())


def check_gate(examples: int, alpha: float, min_gain: float) -> Iterator[Finding]:
    """Whether the first look can accept anything, and what gain it finds four times in five."""
    level = look_alpha(alpha, 1)
    if not paired_test([0.0] * examples, [1.0] * examples, alpha=level, min_gain=min_gain).accepted:
        text = f"splits.gate={examples}: too few for any gain to pass at level {level:.3g}"
        yield Finding("gate", PROBLEM, text)
        return
    normal = NormalDist()
    sure = normal.inv_cdf(1 - level) + normal.inv_cdf(_POWER)
    gain = min_gain + sure * math.sqrt(_DIFFER / examples)
    text = (
        f"{examples:,} examples: a true gain of {100 * gain:.1f} points passes the first look in "
        f"{_POWER:.0%} of runs (if a fifth of the answers change)"
    )
    yield Finding("gate", WARNING if gain - min_gain > _COARSE else OK, text)
