"""Which rows of a reward table are a population's: the table may hold more than the run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.population import in_order

Row = Mapping[str, Any]  # as `ScoredRun.scores` gives them


def members(
    rows: Sequence[Row], round_number: int, size: int | None, center: str | None = None
) -> list[Row]:
    """A round's candidates on support so far, in the population's order.

    Without a `size` all of them. `center`: the digest of the weights they perturb, where known; an
    extended run has perturbed others too.
    """
    found = (
        (row["id"], row)
        for row in rows
        if row["split"] == "support"
        and row["kind"] == "candidate"
        and row["round"] == round_number
        and center in (None, row["center"])
    )
    return in_order(found, size)


def of_round(rows: Sequence[Row], one: Mapping[str, Any]) -> list[Row]:
    """The population of a decided round, by its record."""
    return members(rows, one["round"], one["population"], one["center"]["digest"])


def decided_by(rows: Sequence[Row], rounds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows that decided a run: its populations, centers and proposals, and the gate's looks."""
    populations = [of_round(rows, one) for one in rounds]
    centers = {one["center"]["digest"] for one in rounds}
    proposed = {(one["center"]["digest"], p["id"]) for one in rounds for p in one["proposals"]}
    others = [
        row
        for row in rows
        if row["split"] != "test"
        and row["center"] in centers
        and (row["kind"] == "center" or (row["center"], row["id"]) in proposed)
    ]
    return [row for population in populations for row in population] + others
