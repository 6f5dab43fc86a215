"""A run's state as text for a terminal, from what status.py has read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from corp_ray.progress import RUNNING
from corp_ray.status import INTERRUPTED, SILENT
from corp_ray.tasks.splits import NAMES

_MARGIN = 12  # columns before what a line says
_BAR = 40
_NOTES = 3

Entry = tuple[str, str]  # what stands in the margin, and the text beside it


def duration(seconds: float) -> str:
    """Two units at most: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def rate(per_s: float) -> str:
    """Evaluations per time, in the unit that gives a number above one."""
    units = {"second": 1, "minute": 60, "hour": 3600}
    unit = next((unit for unit, seconds in units.items() if per_s * seconds >= 1), "hour")
    return f"{per_s * units[unit]:.3g} {'an' if unit == 'hour' else 'a'} {unit}"


def bar(done: int, total: int, *, ascii_only: bool = False) -> str:
    full, empty = ("#", ".") if ascii_only else ("━", "─")
    filled = _BAR * done // total if total else _BAR
    return full * filled + empty * (_BAR - filled)


def describe(status: Mapping[str, Any], *, width: int = 80, ascii_only: bool = False) -> str:
    """The whole state, lines of at most `width` columns."""
    lines = [f"{status['run'] or status['directory']}: {_state(status)}"]
    for group in _groups(status, ascii_only):
        entries = list(group)
        lines += [""] if entries else []
        for name, text in entries:
            lines += textwrap.wrap(
                text,
                width,
                initial_indent=f"  {name}".ljust(_MARGIN),
                subsequent_indent=" " * _MARGIN,
                break_on_hyphens=False,
            )
    return "\n".join(lines) + "\n"


def _groups(status: Mapping[str, Any], ascii_only: bool) -> Iterator[Iterable[Entry]]:
    yield (("model", status["model"]), ("task", status["task"]))
    yield _work(status, ascii_only)
    yield _table(status)
    yield _decisions(status)
    yield _test(status["test"] or ())
    yield _notes(status, 80 - _MARGIN)


def _state(status: Mapping[str, Any]) -> str:
    driver, reason = status["driver"], status["reason"]
    if status["shards"]:
        return f"running, shard {', '.join(one['shard'] for one in status['shards'])}"
    where = f"{driver['host']}, process {driver['pid']}"
    if status["state"] == RUNNING:
        return f"running on {where}"
    if status["state"] == SILENT:
        return f"its driver ({where}) has gone silent"
    if status["state"] == INTERRUPTED:
        gone = f"its driver ({where}) is gone" if driver["host"] else "no driver is at work"
        return f"interrupted, {gone}; the same command goes on"
    return f"{status['state']} ({reason})" if reason else status["state"]


def _over(status: Mapping[str, Any]) -> bool:
    return bool(status["test"]) and status["state"] != RUNNING


def _work(status: Mapping[str, Any], ascii_only: bool) -> Iterator[Entry]:
    progress = status["progress"]
    if progress is not None and progress["phase"] and not _over(status):
        yield from _phase(progress["phase"], ascii_only)
    if status["left"]:
        yield "left", _left(status["left"])
    yield from _engines(status)


def _table(status: Mapping[str, Any]) -> Iterator[Entry]:
    rows, best = status["rows"], status["best_reward"]
    yield "rows", ", ".join(f"{name} {rows.get(name, 0):,}" for name in NAMES)
    shown = [f"{best[name]:.3f} on {name}" for name in NAMES[:2] if name in best]
    if shown:
        yield "best", ", ".join(shown)
    yield from _set_aside(status["set_aside"])


def _decisions(status: Mapping[str, Any]) -> Iterator[Entry]:
    for one in status["rounds"]:
        yield f"round {one['round']}", _round(one)
        if one["verdict"]:
            yield "", one["verdict"]
    if status["commits"]:
        yield "commits", ", ".join(f"commits/{number}" for number in status["commits"])


def _notes(status: Mapping[str, Any], width: int) -> Iterator[Entry]:
    """The last lines that say something new, one line each; none of a run that is over."""
    if _over(status) or not status["progress"]:
        return
    known = {one["verdict"] for one in status["rounds"]}
    notes = [note for note in status["progress"]["notes"] if note not in known]
    for number, note in enumerate(notes[-_NOTES:]):
        yield "" if number else "notes", textwrap.shorten(note, width, placeholder=" ...")


def _phase(phase: Mapping[str, Any], ascii_only: bool) -> Iterator[Entry]:
    done, total = phase["done"], phase["total"]
    share = done / total if total else 1.0
    yield "phase", f"{phase['name']}{', over' if phase['over'] else ''}"
    yield "", f"{bar(done, total, ascii_only=ascii_only)} {share:.0%}, {done:,} of {total:,}"
    if done > phase["done_before"]:
        before = f"; {phase['done_before']:,} were there before" if phase["done_before"] else ""
        yield (
            "rate",
            f"{rate(phase['rate_per_s'])}, {phase['tokens_per_s']:,.0f} tokens/s, "
            f"for {duration(phase['elapsed_s'])}{before}",
        )


def _left(left: Mapping[str, float | None]) -> str:
    parts = []
    if left["phase_s"]:
        parts.append(f"{duration(left['phase_s'])} of this phase")
    if left["run_s"] is not None:
        parts.append(f"{duration(left['run_s'])} of the run at most")
    return f"about {', about '.join(parts)} (estimated)" if parts else "the phase is over"


def _engines(status: Mapping[str, Any]) -> Iterator[Entry]:
    counts = (status["progress"] or {}).get("engines")
    parts = []
    if counts:
        parts = [f"{counts['ready']} ready", f"{counts['idle_share']:.1%} of their time idle"]
        if counts["starting"]:
            parts.insert(1, f"{counts['starting']} starting")
    if status["restarts"]:
        parts.append(f"{status['restarts']} replaced")
    if parts:
        yield "engines", ", ".join(parts)
    errors = (status["progress"] or {}).get("verifier_errors")
    if errors:
        yield "verifier", f"failed on {errors:,} answers"


def _round(one: Mapping[str, Any]) -> str:
    support = one["support"]
    decision = "committed" if one["accepted"] else f"nothing committed ({one['reason']})"
    return (
        f"{decision}; support {support['center']:.3f}, "
        f"best of {one['population']:,} {support['best']:.3f}"
    )


def _set_aside(entries: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    if not entries:
        return
    last = entries[-1]
    count = "1 candidate" if len(entries) == 1 else f"{len(entries):,} candidates"
    yield (
        "aside",
        f"{count} given up, the last {last.get('candidate')} after "
        f"{last.get('attempts')} attempts: {last.get('reason')}",
    )


def _test(rows: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    for number, row in enumerate(rows):
        gain = (
            f"  {100 * row['gain']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            if number
            else ""
        )
        yield "" if number else "test", f"{row['name']:<12} {row['mean']:.3f}{gain}"
