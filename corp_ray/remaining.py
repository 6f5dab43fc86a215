"""How much time a run has left, from its sizes and what evaluations have taken so far.

An estimate: what was not measured on one split is taken from another in proportion to examples,
and later rounds are counted although the gate or patience may end the run before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corp_ray.observers import GATE, POPULATION, SWEEP, TEST, kind_of_phase, round_of_phase
from corp_ray.recenter import SearchState, stop_reason

SPLIT_OF = {POPULATION: "support", SWEEP: "validation", GATE: "gate", TEST: "test"}
_ORDER = tuple(SPLIT_OF.values())
_GATE_WORK, _TEST_WORK = 2, 3  # center and proposal; base, best single and committed


@dataclass(frozen=True)
class Measured:
    """What is known of a run at work: seconds an evaluation takes by split, and engines."""

    seconds_each: Mapping[str, float]
    engines: int


def rounds_ended(config: Mapping[str, Any], accepted: Sequence[bool]) -> bool:
    """Whether no round follows those that were decided so."""
    rejections = 0
    for one in accepted:
        rejections = 0 if one else rejections + 1
    state = SearchState(round=len(accepted), commits=sum(accepted), rejections=rejections)
    limits = {name: config["recentering"][name] for name in ("rounds", "max_commits", "patience")}
    return stop_reason(state, **limits) is not None


def _round_work(config: Mapping[str, Any], number: int) -> dict[str, int]:
    grid = config["consolidation"]
    sizes = [len(grid[name]) for name in ("quantiles", "inverse_temperatures", "steps")]
    first = number == 0
    candidates = config["population"]["size"] if first else config["recentering"]["population"]
    return {
        "support": candidates + 1,
        "validation": sizes[0] * sizes[1] * sizes[2] + 1,
        "gate": _GATE_WORK,
    }


def phase_left_s(phase: Mapping[str, Any]) -> float | None:
    """Seconds until a phase of progress.json is over, from its rate; None before its first result."""
    left = phase["total"] - phase["done"]
    if left <= 0 or phase["over"]:
        return 0.0
    return left / phase["rate_per_s"] if phase["rate_per_s"] > 0 else None


def run_left_s(
    config: Mapping[str, Any],
    accepted: Sequence[bool],
    rows: Mapping[tuple[int, str], int],
    phase: Mapping[str, Any] | None,
    measured: Measured,
) -> float | None:
    """Seconds until the whole run is over, at most; None when nothing was measured.

    `accepted` are the decisions of the rounds so far, `rows` counts by (round, split), `phase` is
    that of progress.json.
    """
    each = _seconds_of_all(config, measured.seconds_each)
    if not each or measured.engines < 1:
        return None
    number = len(accepted)
    work: dict[str, int] = dict.fromkeys(_ORDER, 0)
    later: list[int] = []
    if not rounds_ended(config, accepted):
        work |= {
            split: max(0, size - rows.get((number, split), 0))
            for split, size in _round_work(config, number).items()
        }
        later = list(range(number + 1, config["recentering"]["rounds"] + 1))
    work["test"] = _TEST_WORK
    seconds = _ahead(work, number, phase, measured, each) if phase else 0.0
    seconds += _seconds(work, measured, each)
    return seconds + sum(_seconds(_round_work(config, n), measured, each) for n in later)


def _ahead(
    work: dict[str, int],
    number: int,
    phase: Mapping[str, Any],
    measured: Measured,
    each: Mapping[str, float],
) -> float:
    """Seconds that the phase at work still takes; it and what came before it leave `work`."""
    split = SPLIT_OF.get(kind_of_phase(phase["name"]))
    if split is None or round_of_phase(phase["name"]) not in (number, None):
        return 0.0
    for earlier in _ORDER[: _ORDER.index(split) + 1]:
        work[earlier] = 0
    left = phase_left_s(phase)
    if left is not None:
        return left
    return _seconds({split: phase["total"] - phase["done"]}, measured, each)


def _seconds(work: Mapping[str, int], measured: Measured, each: Mapping[str, float]) -> float:
    """What evaluations take on all engines; a few of them take as long as one."""
    return sum(
        each[split] * max(count / measured.engines, 1.0) for split, count in work.items() if count
    )


def _seconds_of_all(config: Mapping[str, Any], known: Mapping[str, float]) -> dict[str, float]:
    """Seconds of an evaluation on every split, unmeasured ones in proportion to their examples."""
    sizes = config["splits"]
    measured = {split: known[split] for split in _ORDER if split in known}
    if not measured:
        return {}
    like = next(iter(measured))
    return {
        split: measured.get(split, measured[like] * sizes[split] / max(sizes[like], 1))
        for split in _ORDER
    }
