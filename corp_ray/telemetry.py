"""Ray application metrics of a run, for Prometheus and whatever draws it.

Ray exports them on every node's metrics port with the prefix `ray_`; counters end in `_total`.
METRICS is the whole list. A metrics system that fails is logged once and never ends a run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util import metrics

from corp_ray.observers import kind_of_phase
from corp_ray.records import VERIFIER_ERROR, EngineCounts, Evaluation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    kind: str  # counter or gauge
    description: str
    tags: tuple[str, ...]


METRICS = {
    "corp_candidates": Metric("counter", "Evaluations whose row is on disk", ("run", "split")),
    "corp_generated_tokens": Metric("counter", "Tokens generated, end tokens too", ("run",)),
    "corp_phase_seconds": Metric("counter", "Seconds spent in phases", ("run", "phase")),
    "corp_phase_done": Metric("gauge", "Evaluations of the phase done", ("run", "phase")),
    "corp_phase_size": Metric("gauge", "Evaluations of the phase in all", ("run", "phase")),
    "corp_engines": Metric("gauge", "Engines by state, ready or starting", ("run", "state")),
    "corp_idle_share": Metric("gauge", "Share of ready engine time without a call", ("run",)),
    "corp_engine_restarts": Metric("counter", "Engines replaced after a loss", ("run",)),
    "corp_verifier_errors": Metric("counter", "Answers that the verifier failed on", ("run",)),
    "corp_set_aside": Metric("counter", "Candidates given up after repeated failure", ("run",)),
    "corp_best_reward": Metric("gauge", "Best mean reward seen so far", ("run", "split")),
}

_MAKE: dict[str, Callable[..., Any]] = {"counter": metrics.Counter, "gauge": metrics.Gauge}


class RayMetrics:
    """An observer that keeps METRICS of one run; values count from where this driver started.

    Needs a connected Ray from the first phase on. `clock` gives seconds, never going back.
    """

    def __init__(self, run_id: str, *, clock: Callable[[], float] = time.monotonic):
        self._run, self._clock = run_id, clock
        self._made: dict[str, Any] = {}
        self._counted: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._phase, self._done, self._begin = "", 0, 0.0
        self._failed = False

    def opened(self, rows: int) -> None:
        """Rows of an earlier driver are not counted again."""

    def phase(self, name: str, total: int, done: int) -> None:
        self._phase, self._done, self._begin = kind_of_phase(name), done, self._clock()
        self._set("corp_phase_size", total, phase=self._phase)
        self._set("corp_phase_done", done, phase=self._phase)

    def result(self, evaluation: Evaluation) -> None:
        self._done += 1
        split = evaluation.split
        self._best[split] = max(self._best.get(split, evaluation.mean), evaluation.mean)
        self._add("corp_candidates", 1, split=split)
        self._add("corp_generated_tokens", evaluation.generated_tokens)
        self._add("corp_verifier_errors", evaluation.outcomes.count(VERIFIER_ERROR))
        self._set("corp_best_reward", self._best[split], split=split)
        self._set("corp_phase_done", self._done, phase=self._phase)

    def phase_done(self) -> None:
        self._add("corp_phase_seconds", self._clock() - self._begin, phase=self._phase)

    def note(self, line: str) -> None:
        """Lines are not numbers."""

    def engines(self, counts: EngineCounts) -> None:
        self._set("corp_engines", counts.ready, state="ready")
        self._set("corp_engines", counts.starting, state="starting")
        self._set("corp_idle_share", counts.idle_share)
        self._total("corp_engine_restarts", counts.restarts)
        self._total("corp_set_aside", counts.set_aside)

    def decided(self, record: Mapping[str, Any]) -> None:
        """Rounds have no metrics."""

    def measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nor has the test table."""

    def _total(self, name: str, total: float) -> None:
        self._add(name, total - self._counted.get(name, 0))
        self._counted[name] = total

    def _add(self, name: str, value: float, **tags: str) -> None:
        if value > 0:
            self._record(name, "inc", value, tags)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._record(name, "set", value, tags)

    def _record(self, name: str, method: str, value: float, tags: dict[str, str]) -> None:
        try:
            if name not in self._made:
                metric = METRICS[name]
                self._made[name] = _MAKE[metric.kind](name, metric.description, metric.tags)
            getattr(self._made[name], method)(float(value), {"run": self._run, **tags})
        except Exception as error:  # noqa: BLE001 (whatever it is, a run goes on without metrics)
            if not self._failed:
                log.warning("metrics: %s is not recorded (%s)", name, error)
            self._failed = True
