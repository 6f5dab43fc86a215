"""Scoring through the reward table: what is missing goes to the engines, what arrives goes to disk.

The one place where pool, held-out splits and table meet. A row counts once it is on disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from corp_ray.actors import GateActor, ScorerActor
from corp_ray.engines import EngineSettings
from corp_ray.errors import EngineError, TaskError
from corp_ray.pool import EnginePlan, Pool, Supervised
from corp_ray.preparation import Prepared
from corp_ray.proposals import sweep_groups
from corp_ray.records import Candidate, Center, Evaluation, EvaluationFailure, Work
from corp_ray.reward_table import RewardTable, error_share
from corp_ray.run_directory import RunDirectory
from corp_ray.storage import Storage


class Display(Protocol):
    """What a run tells whoever watches."""

    def phase(self, name: str, total: int, done: int) -> None: ...

    def result(self, evaluation: Evaluation) -> None: ...

    def phase_done(self) -> None: ...

    def note(self, line: str) -> None: ...


class Scoring:
    """Engines and reward table of one run, on a connected Ray cluster."""

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        display: Display,
        base: Center,
        engines: EnginePlan,
    ):
        """Start the engines; only when they are ready is the run directory taken and opened."""
        self._task, self._max_error_share = prepared.task, prepared.config.task.max_error_share
        self._directory, self._display = directory, display
        self._pool, engine = self._start(prepared, prepared.engine, engines, base)
        self._judges, judge = self._pool, ""
        if prepared.judge is not None:
            self._judges, judge = self._start(prepared, prepared.judge, engines.judge(), base)
        directory.lease.acquire()
        # The table first: rows of another engine are refused before anything is moved or written.
        rewards = Storage.open(directory.rewards)
        self._table = RewardTable(rewards, prepared.table_identity(engine, judge))
        directory.open(prepared.identity)

    def _start(
        self, prepared: Prepared, settings: EngineSettings, plan: EnginePlan, base: Center
    ) -> tuple[Pool, str]:
        """Engines that are ready, and what they say they are. Errors: EngineError."""
        self._display.note(f"starting {plan.count} engine{'s' * (plan.count != 1)}")
        pool = Pool(
            lambda options: ScorerActor.options(**options).remote(settings, prepared.task),
            plan,
            warm=lambda actor: actor.ready.remote(base),
            in_flight=prepared.config.ray.in_flight,
            attempts=prepared.config.ray.attempts,
        )
        for line in dict.fromkeys(line for _, lines in pool.started for line in lines):
            self._display.note(line)
        kinds = sorted({description for description, _ in pool.started})
        if len(kinds) != 1:
            raise EngineError(f"engines differ: {', '.join(kinds)}")
        self._display.note(f"ready: {kinds[0]}")
        return pool, kinds[0]

    def close(self) -> None:
        self._pool.close()
        if self._judges is not self._pool:
            self._judges.close()

    @contextmanager
    def _phase(self, name: str, total: int, done: int) -> Iterator[None]:
        begin, rows = time.time(), len(self._table)
        self._display.phase(name, total, done)
        try:
            yield
        finally:
            self._display.phase_done()
            self._directory.log_metrics(
                {
                    "phase": name,
                    "seconds": time.time() - begin,
                    "rows": len(self._table) - rows,
                    "restarts": sum(pool.restarts for pool in {self._pool, self._judges}),
                    "time": time.time(),
                }
            )

    def score(
        self, center: Center, split: str, candidates: Sequence[Candidate], phase: str
    ) -> list[Evaluation]:
        """Evaluations of all candidates on a split, in order, scoring those that the table lacks.

        Errors: EngineError when a candidate fails on every attempt; TaskError when the verifier
        fails too often.
        """
        missing = self._table.missing(center.digest, split, candidates)
        fixed = [(c,) for c in missing if c.kind != "proposal"]
        swept = sweep_groups([c for c in missing if c.kind == "proposal"], len(self._pool))
        works = [Work(center, split, group) for group in (*fixed, *swept)]
        with self._phase(phase, len(candidates), len(candidates) - len(missing)):
            for result in self._pool.map_unordered(works):
                if isinstance(result, EvaluationFailure):
                    names = ", ".join(c.id for c in result.work.candidates)
                    raise EngineError(
                        f"{names}: not scored in {result.attempts} attempts: {result.reason}"
                    )
                self._record(result)
        return [self._stored(center, split, candidate) for candidate in candidates]

    def judged(
        self, split: str, work: Sequence[tuple[Center, Candidate]], phase: str
    ) -> list[Evaluation]:
        """Evaluations on a held-out split, by an actor that alone holds it, on leased engines."""
        missing = self.unjudged(split, work)
        if missing:
            gate = Supervised(
                lambda: GateActor.options(num_cpus=0, max_concurrency=len(self._judges)).remote(
                    split, self._task
                )
            )
            try:
                with self._phase(phase, len(work), len(work) - len(missing)):
                    for evaluation in self._judges.leased(gate, missing):
                        self._record([evaluation])
            finally:
                gate.close()
        return [self._stored(center, split, candidate) for center, candidate in work]

    def unjudged(
        self, split: str, work: Sequence[tuple[Center, Candidate]]
    ) -> list[tuple[Center, Candidate]]:
        return [(o, c) for o, c in work if self._table.get(o.digest, split, c) is None]

    def check_weights(self, center: Center, candidate: Candidate, digest: str) -> None:
        """EngineError unless an engine's center + candidate has exactly the tensors of `digest`."""
        found = self._judges.digest(center, candidate)
        if found != digest:
            raise EngineError(
                f"{candidate.id}: an engine holds weights {found[:12]}..., "
                f"the staged folder {digest[:12]}..."
            )

    def _record(self, evaluations: Sequence[Evaluation]) -> None:
        """Append what was graded; one whose verifier failed too often never becomes a row."""
        self._directory.lease.check()
        limit = self._max_error_share
        good = [e for e in evaluations if error_share(e) <= limit]
        for evaluation in self._table.append(good):
            self._display.result(evaluation)
        for evaluation in evaluations:
            share = error_share(evaluation)
            if share > limit:
                raise TaskError(
                    f"{evaluation.candidate.id}: the verifier failed on {share:.0%} of "
                    f"{evaluation.split}, task.max_error_share={limit}"
                )

    def _stored(self, center: Center, split: str, candidate: Candidate) -> Evaluation:
        evaluation = self._table.get(center.digest, split, candidate)
        if evaluation is None:
            raise EngineError(f"{candidate.id} on {split}: scored, yet not in the reward table")
        return evaluation
