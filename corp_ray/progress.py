"""progress.json: how far a run is, kept up to date in its directory while its driver works.

An observer collects; a thread writes, so that slow storage holds up no engine. Nothing is written
before the first phase, when the directory is the run's. Durations are this driver's own; no time
of day is kept, since a reader's clock may differ. See docs/method.md, "What a run leaves".
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from corp_ray.errors import CorpError
from corp_ray.records import VERIFIER_ERROR, EngineCounts, Evaluation

log = logging.getLogger(__name__)

NAME = "progress.json"
RUNNING, ENDED, STOPPED, FAILED = "running", "ended", "stopped", "failed"
EVERY_S = 2.0
NOTES = 10


@dataclass
class _Phase:
    name: str
    total: int
    done: int
    done_before: int
    began: float
    tokens: int = 0
    ended: float | None = None

    def content(self, now: float) -> dict[str, Any]:
        elapsed = (now if self.ended is None else self.ended) - self.began
        new = self.done - self.done_before
        return {
            "name": self.name,
            "total": self.total,
            "done": self.done,
            "done_before": self.done_before,
            "over": self.ended is not None,
            "elapsed_s": elapsed,
            "rate_per_s": new / elapsed if elapsed > 0 else 0.0,
            "tokens_per_s": self.tokens / elapsed if elapsed > 0 else 0.0,
        }


@dataclass
class _Split:
    evaluations: int = 0
    seconds: float = 0.0
    best_reward: float = field(default=float("-inf"))

    def content(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "seconds_each": self.seconds / self.evaluations,
            "best_reward": self.best_reward,
        }


class ProgressFile:
    """An observer that keeps progress.json; `write(name, content)` puts a whole file in its place.

    Written at most every `every_s`, and at the beginning and end of phases. `clock` gives seconds,
    never going back. A write that fails is logged once and tried again with the next.
    """

    def __init__(
        self,
        write: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        every_s: float = EVERY_S,
    ):
        self._write, self._clock, self._every_s = write, clock, every_s
        self._began = clock()
        self._state, self._reason = RUNNING, ""
        self._phase: _Phase | None = None
        self._splits: dict[str, _Split] = {}
        self._tokens = self._verifier_errors = 0
        self._counts: EngineCounts | None = None
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._failed = False
        self._changed = threading.Condition()
        self._news = self._urgent = False
        self._thread: threading.Thread | None = None

    def opened(self, rows: int) -> None:
        """Readers of the directory count its rows themselves."""

    def phase(self, name: str, total: int, done: int) -> None:
        with self._changed:
            self._phase = _Phase(name, total, done, done, self._clock())
            self._tell(urgent=True)
            if self._thread is None and self._state == RUNNING:
                self._thread = threading.Thread(
                    target=self._keep, name="corp-progress", daemon=True
                )
                self._thread.start()

    def result(self, evaluation: Evaluation) -> None:
        with self._changed:
            if self._phase is not None:
                self._phase.done += 1
                self._phase.tokens += evaluation.generated_tokens
            split = self._splits.setdefault(evaluation.split, _Split())
            split.evaluations += 1
            split.seconds += evaluation.seconds
            split.best_reward = max(split.best_reward, evaluation.mean)
            self._tokens += evaluation.generated_tokens
            self._verifier_errors += evaluation.outcomes.count(VERIFIER_ERROR)
            self._tell()

    def phase_done(self) -> None:
        with self._changed:
            if self._phase is not None:
                self._phase.ended = self._clock()
            self._tell(urgent=True)

    def note(self, line: str) -> None:
        with self._changed:
            self._notes.append(line)
            self._tell()

    def engines(self, counts: EngineCounts) -> None:
        with self._changed:
            self._counts = counts
            self._tell()

    def decided(self, record: Mapping[str, Any]) -> None:
        """Has a file of its own, rounds/<t>.json."""

    def measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Has a file of its own, report/test.json."""

    def close(self, state: str, reason: str = "") -> None:
        """Write the final file: `state` is ended, stopped or failed. Nothing before a phase began."""
        with self._changed:
            self._state, self._reason = state, reason
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._put()

    def content(self) -> dict[str, Any]:
        """What progress.json holds now; durations in seconds."""
        with self._changed:
            return self._content(self._clock())

    def _content(self, now: float) -> dict[str, Any]:
        counts = self._counts
        return {
            "state": self._state,
            "reason": self._reason,
            "phase": self._phase.content(now) if self._phase else None,
            "elapsed_s": now - self._began,
            "splits": {name: split.content() for name, split in self._splits.items()},
            "tokens": self._tokens,
            "verifier_errors": self._verifier_errors,
            "engines": asdict(counts) | {"idle_share": counts.idle_share} if counts else None,
            "notes": list(self._notes),
        }

    def _tell(self, *, urgent: bool = False) -> None:
        self._news = True
        self._urgent = self._urgent or urgent
        self._changed.notify()

    def _keep(self) -> None:
        due = float("-inf")  # real time: how often storage is written is no matter of `clock`
        while True:
            with self._changed:
                while self._state == RUNNING and not self._urgent:
                    left = due - time.monotonic()
                    if self._news and left <= 0:
                        break
                    self._changed.wait(left if self._news else None)
                if self._state != RUNNING:
                    return
            self._put()
            due = time.monotonic() + self._every_s

    def _put(self) -> None:
        with self._changed:
            self._news = self._urgent = False
            text = json.dumps(self._content(self._clock()), indent=1) + "\n"
        try:
            self._write(NAME, text)
            self._failed = False
        except (CorpError, OSError) as error:
            if not self._failed:
                log.warning("%s is not kept (%s); the run goes on", NAME, error)
            self._failed = True
