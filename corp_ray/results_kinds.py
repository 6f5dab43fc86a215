"""Tables of several runs beside their comparisons: what each is made of, and its Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corp_ray.results import rounding, rounds, structure
from corp_ray.results_answers import answers
from corp_ray.results_files import diagnoses_of, roundings_of, rounds_of
from corp_ray.results_text import answered, rounded, rounds_told, structures


@dataclass(frozen=True)
class Kind:
    """`collect` makes the results of run directories, `tell` their table."""

    collect: Callable[[Sequence[str]], dict[str, Any]]
    tell: Callable[[Mapping[str, Any]], str]
    about: str


KINDS = {
    "structure": Kind(
        lambda runs: structure(diagnoses_of(runs)),
        structures,
        "the first rounds' populations: jobs.diagnose's report, or what it would say",
    ),
    "answers": Kind(answers, answered, "how answers to the test items begin, what voters solve"),
    "rounds": Kind(
        lambda runs: rounds(rounds_of(runs)), rounds_told, "what each decided round found"
    ),
    "rounding": Kind(
        lambda runs: rounding(roundings_of(runs)),
        rounded,
        "what rounding left of round 0's best step (jobs.diagnose --rounding)",
    ),
}
