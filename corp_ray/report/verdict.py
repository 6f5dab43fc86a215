"""A run's outcome as sentences that need no knowledge of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.progress import ENDED, FAILED, RUNNING

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def points(value: float) -> str:
    """A difference of mean rewards in points, with its sign: +18.4; U+2212 for minus."""
    return f"{100 * value:+.1f}".replace("-", "−")


def verdict_sentence(content: Mapping[str, Any]) -> str:
    """What the gate decided and why, from report.json's other parts."""
    rounds, looks = content["rounds"], content["gate"]
    accepted = [one for one in rounds if one["accepted"]]
    if not rounds:
        return _undecided(content) + _waiting(content)
    current = [look for look in looks if not look["superseded"]]
    if accepted:
        return _accepted(rounds, accepted, current) + _tested(content) + _waiting(content)
    ended = content["state"] == ENDED
    verb = "Abstained: the base model stands" if ended else "No update was accepted so far"
    return f"{verb}, because {_reason(rounds[-1], current)}.{_waiting(content)}"


def _undecided(content: Mapping[str, Any]) -> str:
    population = content["population"]
    scored = f"{population['scored']:,} of {population['size']:,}" if population else "no"
    return f"Nothing is decided yet: {scored} candidates have a reward."


def _waiting(content: Mapping[str, Any]) -> str:
    """Whether anything is to come, of a run that has no end yet."""
    if content["state"] == FAILED:
        return f" The run failed: {content['reason']}"
    if content["state"] == RUNNING or (content["state"] == ENDED and content["rounds"]):
        return ""
    return " The run is not at work now; the same command takes it up again."


def _accepted(
    rounds: Sequence[Mapping[str, Any]],
    accepted: Sequence[Mapping[str, Any]],
    looks: Sequence[Mapping[str, Any]],
) -> str:
    by_round = {look["round"]: look for look in looks}
    parts = []
    for number, one in enumerate(accepted):
        look = by_round[one["round"]]
        name = _ORDINALS[number] if number < len(_ORDINALS) else f"{number + 1}th"
        gain = f"{points(look['mean'])} points on {look['examples']:,} held-out items"
        if number:
            parts.append(f"a {name} one with {points(look['mean'])} more")
        else:
            parts.append(
                f"the {name} update: {gain}, {look['fixes']:,} fixed, "
                f"{look['regressions']:,} broken"
            )
    rejected = [one["round"] for one in rounds if not one["accepted"]]
    which = "later" if all(number > accepted[-1]["round"] for number in rejected) else "other"
    tail = (
        f"; {len(rejected)} {which} {'round' if len(rejected) == 1 else 'rounds'} changed nothing"
    )
    return f"The gate accepted {', and '.join(parts)}{tail if rejected else ''}."


def _tested(content: Mapping[str, Any]) -> str:
    rows = (content["summary"] or {"rows": []})["rows"]
    last = [row for row in rows if row["name"] == "committed" and row["gain"] is not None]
    if not last:
        return ""
    row = last[0]
    return (
        f" On the test split, read once, the committed model has {points(row['gain'])} points over "
        f"the base (95 % interval {points(row['low'])} to {points(row['high'])})."
    )


def _reason(one: Mapping[str, Any], looks: Sequence[Mapping[str, Any]]) -> str:
    """Why a round changed nothing, as a clause."""
    if one["reason"] == "no_gain_on_validation":
        return "the best proposal was no better than the base on validation"
    look = next((look for look in looks if look["round"] == one["round"]), None)
    if look is None:
        return f"of {one['reason']}"
    gain = f"{points(look['mean'])} points on {look['examples']:,} held-out items"
    if look["mean"] <= 0:
        return f"the best proposal gained nothing at the gate ({gain})"
    above = f"is not reliably above the margin of {points(look['threshold'])} points"
    return (
        f"its gain at the gate, {gain}, "
        f"{above if look['p_value'] <= look['alpha'] else 'could be chance'} "
        f"(lower bound {points(look['lower'])}, {look['fixes']:,} fixed, "
        f"{look['regressions']:,} broken)"
    )
