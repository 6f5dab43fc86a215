"""Which rows of a reward table are a population's: the table may hold more than the run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.population import number_of

Row = Mapping[str, Any]  # as `ScoredRun.scores` gives them


def members(rows: Sequence[Row], round_number: int, size: int | None) -> list[Row]:
    """A round's candidates on support so far, in the population's order; all without a `size`."""
    found = [
        (number_of(row["id"]), row)
        for row in rows
        if row["split"] == "support" and row["kind"] == "candidate" and row["round"] == round_number
    ]
    found.sort(key=lambda pair: pair[0])
    return [row for number, row in found if size is None or number < size]


def decided_by(rows: Sequence[Row], rounds: Sequence[Row]) -> list[Row]:
    """The rows that decided a run: its populations, centers and proposals, and the gate's looks."""
    populations = [members(rows, one["round"], one["population"]) for one in rounds]
    proposed = {p["id"] for one in rounds for p in one["proposals"]}
    others = [
        row
        for row in rows
        if row["split"] != "test" and (row["kind"] == "center" or row["id"] in proposed)
    ]
    return [row for population in populations for row in population] + others
