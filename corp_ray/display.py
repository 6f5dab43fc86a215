"""What a person sees of a run: a progress line on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from corp_ray.records import EngineCounts, Evaluation
from corp_ray.results_text import gain_text

if TYPE_CHECKING:  # jobs that only read files do without the search, and so without Ray
    from corp_ray.compared import Comparison
    from corp_ray.measure import Measured
    from corp_ray.search import RunResult, Scored

log = logging.getLogger("corp_ray")

_EVERY_S = 15.0


CONSOLE = Console(stderr=True)


def log_handler() -> logging.Handler:
    """Log lines that a live progress bar on the same console does not tear."""
    if CONSOLE.is_terminal:
        rich = RichHandler(
            console=CONSOLE, show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        rich.setFormatter(logging.Formatter("%(message)s"))
        return rich
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    return handler


class TerminalDisplay:
    """Progress with candidates done of total, best so far, tokens/s and time left.

    On a terminal a live bar, elsewhere a log line at most every 15 s.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._name, self._total, self._done, self._before = "", 0, 0, 0
        self._begin = self._spoke = 0.0
        self._tokens, self._best = 0, -1.0
        self._engines = ""

    def opened(self, rows: int) -> None:
        """Each phase says what was there."""

    def phase(self, name: str, total: int, done: int) -> None:
        self._name, self._total, self._done, self._before = name, total, done, done
        self._begin = self._spoke = time.monotonic()
        self._tokens, self._best = 0, -1.0
        if done == total:
            return
        if CONSOLE.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=CONSOLE,
            )
            self._bar.start()
            self._bar.add_task(name, total=total, completed=done, detail="")
        else:
            again = f", {done} already scored" if done else ""
            log.info("%s: %d to score%s", name, total - done, again)

    def result(self, evaluation: Evaluation) -> None:
        self._done += 1
        self._tokens += evaluation.generated_tokens
        self._best = max(self._best, evaluation.mean)
        now = time.monotonic()
        elapsed = max(now - self._begin, 1e-9)
        detail = f"best {self._best:.3f}  {self._tokens / elapsed:.0f} tokens/s"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self._done, detail=detail)
        elif now - self._spoke >= _EVERY_S:
            self._spoke = now
            left = (self._total - self._done) * elapsed / (self._done - self._before)
            log.info(
                "%s: %d of %d, %s%s, %.0f s left",
                self._name,
                self._done,
                self._total,
                detail,
                self._engines,
                left,
            )

    def phase_done(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def note(self, line: str) -> None:
        log.info("%s", line)

    def engines(self, counts: EngineCounts) -> None:
        self._engines = f", {counts.ready} engines, {counts.idle_share:.1%} idle"

    def decided(self, record: Mapping[str, Any]) -> None:
        """Has been said in notes."""

    def measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Is shown at the end, by show_result."""


def _show_table(console: Console, rows: Sequence[Measured], title: str) -> None:
    table = Table(title=title)
    for heading in ("model", "mean reward", "points over base", "95 % paired interval", "n"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for number, row in enumerate(rows):
        interval = f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]" if number else ""
        gain = f"{100 * row.gain:+.1f}" if number else ""
        table.add_row(row.name, f"{row.mean:.3f}", gain, interval, str(row.examples))
    console.print(table)


class _Output(Console):
    """Standard output; a pipe that nobody reads is the caller's to answer, as for all else printed."""

    def on_broken_pipe(self) -> None:
        raise  # what rich has caught


def _console() -> Console:
    return _Output(file=sys.stdout, width=None if sys.stdout.isatty() else 100)


def show_evaluation(rows: Sequence[Measured]) -> None:
    """The test table of jobs/evaluate, on standard output."""
    _show_table(_console(), rows, "test split")


def show_scored(scored: Scored) -> None:
    """What jobs/score has done, on standard output."""
    _console().print(
        f"shard {scored.shard} of {scored.shards}: {scored.candidates} candidates scored; "
        f"{scored.in_table} of {scored.population} are in the table of {scored.directory}",
        soft_wrap=True,
        highlight=False,
    )


def show_result(result: RunResult) -> None:
    """The test table and where the files are, on standard output."""
    console = _console()
    _show_table(console, result.test, "test split, read once, after the run was decided")
    lines: Sequence[str] = (
        [f"committed model: {result.commits[-1].path}"]
        if result.commits
        else ["the gate accepted nothing: the base model stands, no folder was written"]
    )
    for line in (*lines, f"run directory: {result.directory} (ended: {result.stop_reason})"):
        console.print(line, soft_wrap=True, highlight=False)


def show_comparison(comparison: Comparison) -> None:
    """The table of jobs/compare, on standard output."""
    console = _console()
    table = Table(title=f"test split, {comparison.examples} examples")
    for heading in ("method", "mean", "points over base", "over best single", "passes", "scored"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in comparison.rows:
        over = row.gain_over_best_single
        table.add_row(
            row.name + (" (abstained)" if row.abstained else ""),
            f"{row.mean:.3f}",
            "" if row.name == "base" else gain_text(row.gain, row.low, row.high),
            "" if row.name == "best_single" else gain_text(over.gain, over.low, over.high),
            str(row.forward_passes),
            str(row.search.candidates),
        )
    console.print(table)
    for row in comparison.rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", soft_wrap=True, highlight=False)
