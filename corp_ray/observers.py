"""Who watches a run: the observer's protocol, several observers as one, and what phases are called.

Observers are told what has happened; nothing that a run decides depends on one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from corp_ray.records import EngineCounts, Evaluation

POPULATION, SWEEP, GATE, TEST = PHASES = ("population", "validation sweep", "gate", "test")
OTHER = "other"


class Observer(Protocol):
    """What a run tells whoever watches."""

    def opened(self, rows: int) -> None:
        """The run directory is the run's; its reward table holds `rows` rows."""

    def phase(self, name: str, total: int, done: int) -> None:
        """A phase begins: `done` of its `total` evaluations were in the table before."""

    def result(self, evaluation: Evaluation) -> None:
        """A new row is on disk."""

    def phase_done(self) -> None:
        """The phase is over, finished or broken off."""

    def note(self, line: str) -> None:
        """One line for people."""

    def engines(self, counts: EngineCounts) -> None:
        """How the engines fare."""

    def decided(self, record: Mapping[str, Any]) -> None:
        """A round is over: what rounds/<t>.json holds. A resumed run repeats earlier rounds."""

    def measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The test table, its rows as report/test.json holds them; the first is the base."""


class Displays:
    """Several observers behind one: each is told everything, in the order given."""

    def __init__(self, *observers: Observer):
        self._observers = observers

    def opened(self, rows: int) -> None:
        for observer in self._observers:
            observer.opened(rows)

    def phase(self, name: str, total: int, done: int) -> None:
        for observer in self._observers:
            observer.phase(name, total, done)

    def result(self, evaluation: Evaluation) -> None:
        for observer in self._observers:
            observer.result(evaluation)

    def phase_done(self) -> None:
        for observer in self._observers:
            observer.phase_done()

    def note(self, line: str) -> None:
        for observer in self._observers:
            observer.note(line)

    def engines(self, counts: EngineCounts) -> None:
        for observer in self._observers:
            observer.engines(counts)

    def decided(self, record: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.decided(record)

    def measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for observer in self._observers:
            observer.measured(rows)


def kind_of_phase(name: str) -> str:
    """The kind of a phase without its round: "round 3: gate" is "gate"; "other" for any further."""
    return next((kind for kind in PHASES if kind in name), OTHER)


def round_of_phase(name: str) -> int | None:
    """The round that a phase's name begins with, None when it belongs to none."""
    found = re.match(r"round (\d+):", name)
    return int(found[1]) if found else None
