"""Which rows of a reward table are a population's: the table may hold more than the run's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.population import in_order

Row = Mapping[str, Any]  # as `ScoredRun.scores` gives them
_SAME = 1e-9  # two means of the same rewards


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
    """The population of a decided round, by its record; each candidate once.

    A later round of an extended run may have been sampled twice around the same center, as other
    directions under the same names: see `is_ambiguous`.
    """
    return list({row["id"]: row for row in _named(rows, one)}.values())


def is_ambiguous(rows: Sequence[Row], one: Mapping[str, Any]) -> bool:
    """Whether rows of two populations have the names of a decided round's candidates."""
    found = _named(rows, one)
    return len({row["id"] for row in found}) < len(found)


def _named(rows: Sequence[Row], one: Mapping[str, Any]) -> list[Row]:
    """All rows with the names of a decided round's candidates, around its center."""
    return members(rows, one["round"], one["population"], one["center"]["digest"])


def decided_by(rows: Sequence[Row], rounds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows that decided a run: its populations, centers and proposals, and the gate's looks."""
    populations = [of_round(rows, one) for one in rounds]
    centers = {one["center"]["digest"] for one in rounds}
    proposed = {
        (one["center"]["digest"], p["id"]): p["validation"]
        for one in rounds
        for p in one["proposals"]
    }
    judged = {
        (one["center"]["digest"], one["best"]): one["verdict"]["mean"]
        for one in rounds
        if one["verdict"]
    }
    gates = {r["center"]: r["mean"] for r in rows if r["kind"] == "center" and r["split"] == "gate"}

    def belongs(row: Row) -> bool:
        """Proposals of before an extension have the same names: they are told by their means."""
        if row["kind"] == "center":
            return True
        key = (row["center"], row["id"])
        if row["split"] == "gate":
            gain = row["mean"] - gates.get(row["center"], math.nan)
            return key in judged and abs(gain - judged[key]) < _SAME
        return key in proposed and abs(row["mean"] - proposed[key]) < _SAME

    others = [
        row for row in rows if row["split"] != "test" and row["center"] in centers and belongs(row)
    ]
    return [row for population in populations for row in population] + others
