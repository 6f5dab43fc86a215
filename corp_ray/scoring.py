"""Scoring through the reward table: what is missing goes to the engines, what arrives goes to disk.

The one place where pool, held-out splits and table meet. A row counts once it is on disk; a
candidate that takes its engines down is set aside and counted, never given a made-up reward.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from corp_ray import cluster
from corp_ray.actors import GateActor, ScorerActor
from corp_ray.cluster import EnginePlan
from corp_ray.engines import EngineSettings
from corp_ray.errors import EngineError, TaskError
from corp_ray.observers import Observer
from corp_ray.pool import Done, Pool
from corp_ray.preparation import Prepared
from corp_ray.proposals import sweep_groups
from corp_ray.records import Candidate, Center, EngineCounts, Evaluation, Failure, Work
from corp_ray.reward_rows import Key
from corp_ray.reward_table import RewardTable, error_share
from corp_ray.run_directory import SET_ASIDE, RunDirectory
from corp_ray.scheduler import SchedulePolicy
from corp_ray.set_aside import SetAside
from corp_ray.stopping import StopRequest
from corp_ray.storage import Storage
from corp_ray.supervised import Supervised

Asked = tuple[Center, str, Candidate]  # a row of the reward table: center, split, candidate
_HANGING_ANSWERS = 10  # of one call, graded one after the other
_ROOM_S = 60.0  # that engines have at least to find another node: processes start slowly
_GATE_CALLS = 16  # pieces of gate work that may be under way at once, at least


def schedule_policy(prepared: Prepared) -> SchedulePolicy:
    """A call ends when its answers are graded: some that hang must not look like a hung engine."""
    settings, task = prepared.config.ray, prepared.config.task
    hanging_s = 0.0 if prepared.in_place else _HANGING_ANSWERS * task.grading_limit_s
    return SchedulePolicy(
        in_flight=settings.in_flight,
        attempts=settings.attempts,
        straggler=settings.straggler,
        hang=settings.hang,
        hang_floor_s=settings.hang_floor_s + hanging_s,
        first_s=settings.first_call_s,
        room_s=max(settings.wait_s, _ROOM_S),
    )


class Scoring:
    """Engines and reward table of one run, on a connected Ray cluster."""

    def __init__(
        self,
        prepared: Prepared,
        directory: RunDirectory,
        display: Observer,
        base: Center,
        engines: EnginePlan,
        stop: StopRequest,
    ):
        """Start the engines; only when one is ready is the run directory taken and opened."""
        self._task, self._max_error_share = prepared.task, prepared.config.task.max_error_share
        self._max_set_aside = prepared.config.ray.max_set_aside
        self._in_flight = prepared.config.ray.in_flight
        self._directory, self._display, self._stop = directory, display, stop
        self._center = base
        # What this driver has asked for so far, whether it was in the table or not.
        self.asked: dict[Key, Asked] = {}
        self._pools: list[Pool] = []
        try:
            self._pool = self._judges = self._start(prepared, prepared.engine, engines)
            if prepared.judge is not None:
                self._judges = self._start(prepared, prepared.judge, engines.judge())
            judge = self._judges.description if self._judges is not self._pool else ""
            directory.lease.acquire()
            # The table first: rows of another engine are refused before anything is moved or written.
            identity = prepared.table_identity(self._pool.description, judge)
            self._table = RewardTable(directory.rewards, identity, owner=not directory.shard)
            directory.open(prepared.identity)
            self._set_aside = SetAside(directory)
            self._copy_rewards(prepared.config.run.from_rewards)
            display.opened(len(self._table))
        except BaseException:
            self.close()
            raise

    def _start(self, prepared: Prepared, settings: EngineSettings, plan: EnginePlan) -> Pool:
        """A pool with an engine that is ready. Errors: what the engines say when none can work."""
        name = prepared.config.run.id
        pool = Pool(
            lambda options: ScorerActor.options(**options).remote(settings, prepared.task),
            plan,
            warm=lambda actor: actor.ready.remote(self._center),
            name=f"{name}/judge" if self._pools else f"{name}/scorer",
            policy=schedule_policy(prepared),
            stop=self._stop,
            watch=self._report_engines,
        )
        self._pools.append(pool)
        self._display.note("starting engines")
        for line in dict.fromkeys(pool.open()):
            self._display.note(line)
        self._display.note(f"ready: {pool.description}")
        return pool

    def _copy_rewards(self, other: str) -> None:
        """Take the support rows of another run in, where the configuration names one."""
        if other not in ("", "."):
            rows = self._table.read_from(Storage.open(other) / "rewards")
            self._display.note(f"{rows} rows taken from {other}")

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    def _report_engines(self) -> None:
        seconds = [pool.engine_seconds() for pool in self._pools]
        counts = EngineCounts(
            ready=sum(pool.ready for pool in self._pools),
            starting=sum(pool.starting for pool in self._pools),
            restarts=sum(pool.restarts for pool in self._pools),
            busy_s=sum(busy for busy, _ in seconds),
            ready_s=sum(ready for _, ready in seconds),
            set_aside=len(self._set_aside) if hasattr(self, "_set_aside") else 0,
        )
        self._display.engines(counts)

    @contextmanager
    def _phase(self, name: str, total: int, done: int) -> Iterator[None]:
        begin, rows = time.monotonic(), len(self._table)
        self._display.phase(name, total, done)
        try:
            yield
        finally:
            self._report_engines()
            self._display.phase_done()
            self._directory.log_metrics(
                {
                    "phase": name,
                    "seconds": time.monotonic() - begin,
                    "rows": len(self._table) - rows,
                    "restarts": sum(pool.restarts for pool in self._pools),
                    "set_aside": len(self._set_aside),
                    "time": time.time(),
                }
            )

    def use(self, center: Center) -> None:
        """From now on work is around this center; engines that start load it."""
        if center != self._center:
            self._center = center
            for pool in self._pools:
                pool.renew()

    def score(
        self, center: Center, split: str, candidates: Sequence[Candidate], phase: str
    ) -> list[Candidate]:
        """Score those that the table lacks; the candidates that have a row then, in order.

        Errors: EngineError when the center cannot be scored, or too many candidates are set aside;
        TaskError when the verifier fails too often; StoppedError.
        """
        self._stop.check()
        self.use(center)
        usable = [c for c in candidates if not self._set_aside.has(center, split, c)]
        missing = self._table.missing(center.digest, split, usable)
        fixed = [(c,) for c in missing if c.kind != "proposal"]
        proposals = [c for c in missing if c.kind == "proposal"]
        swept = sweep_groups(proposals, max(self._pool.ready, 1))
        works = [Work(center, split, group) for group in (*fixed, *swept)]
        self._check_aside(center, split, candidates)
        with self._phase(phase, len(usable), len(usable) - len(missing)):
            self._work(self._work(works, candidates), candidates)
        scored = [c for c in usable if not self._set_aside.has(center, split, c)]
        self._note_asked(split, [(center, candidate) for candidate in scored])
        return scored

    def _work(self, works: Sequence[Work], asked: Sequence[Candidate]) -> list[Work]:
        """Have pieces scored; those of several candidates that failed, one by one: how they were
        grouped, which depends on the engines, must not decide who is set aside."""
        apart: list[Work] = []
        for finished in self._pool.map_unordered(
            lambda actor, index: actor.score.remote(works[index]),
            [len(work.candidates) * self._task.sizes[work.split] for work in works],
        ):
            self._record([e for d in finished if isinstance(d, Done) for e in d.result])
            for failure in finished:
                if isinstance(failure, Failure):
                    work = works[failure.index]
                    if len(work.candidates) > 1:
                        apart += [replace(work, candidates=(one,)) for one in work.candidates]
                    else:
                        self._put_aside(work, failure)
                        last = f", the last one {work.candidates[0].id}: {failure.reason}"
                        self._check_aside(work.center, work.split, asked, last)
        return apart

    def _note_asked(self, split: str, work: Sequence[tuple[Center, Candidate]]) -> None:
        for center, candidate in work:
            key = center.digest, split, candidate.digest
            self.asked.setdefault(key, (center, split, candidate))

    def _put_aside(self, work: Work, failure: Failure) -> None:
        """Note what could not be scored. Errors: EngineError for the center."""
        (candidate,) = work.candidates
        if candidate.kind == "center":
            raise EngineError(f"{candidate.id}: not scored: {failure.reason}")
        self._directory.lease.check()
        self._set_aside.add(work.center, work.split, candidate, failure)
        self._display.note(f"set aside: {candidate.id} on {work.split} ({failure.reason})")

    def _check_aside(
        self, center: Center, split: str, asked: Sequence[Candidate], last: str = ""
    ) -> None:
        """EngineError when too many of what is asked for are set aside, by this driver or before."""
        members = [one for one in asked if one.kind != "center"]
        count = sum(self._set_aside.has(center, split, one) for one in members)
        share = self._max_set_aside
        limit = max(1, int(share * len(members))) if share else 0
        if count > limit:
            raise EngineError(
                f"{count} candidates of {split} could not be scored{last} (ray.max_set_aside={share:g} "
                f"allows {limit}; *{SET_ASIDE} has the reasons, and without it they are tried again)"
            )

    def judged(
        self, split: str, work: Sequence[tuple[Center, Candidate]], phase: str
    ) -> list[Evaluation]:
        """Evaluations on a held-out split, by an actor that alone holds it, on leased engines."""
        self._stop.check()
        missing = self.unjudged(split, work)
        if missing or not self._directory.has_questions(split):
            gate = self._holder(split)

            def evaluate(actor: Any, index: int) -> Any:
                return gate.actor.evaluate.remote(actor, *missing[index])

            self._judges.renew()
            try:
                with self._phase(phase, len(work), len(work) - len(missing)):
                    sizes = [self._task.sizes[split]] * len(missing)
                    for finished in self._judges.map_unordered(evaluate, sizes, through=gate):
                        self._record([d.result for d in finished if isinstance(d, Done)])
                        for failure in finished:
                            if isinstance(failure, Failure):
                                name = missing[failure.index][1].id
                                raise EngineError(f"{name} on {split}: {failure.reason}")
                    self._directory.keep_questions(split, lambda: gate.call("questions"))
            finally:
                gate.close()
        self._note_asked(split, work)
        return [self.evaluation(center, split, candidate) for center, candidate in work]

    def _holder(self, split: str) -> Supervised:
        """An actor that alone holds a held-out split; to be closed."""
        # One call for each place in the engines' lines: what waits here would look like a slow engine.
        calls = max(_GATE_CALLS, (self._judges.ready + self._judges.starting) * self._in_flight)
        return Supervised(
            lambda: GateActor.options(
                num_cpus=0, max_concurrency=calls, scheduling_strategy=cluster.here()
            ).remote(split, self._task),
            self._stop,
        )

    def answers(self, split: str, rows: Sequence[Evaluation]) -> list[list[str | None]]:
        """What each row's texts on a held-out split give as answers, read where the split is held."""
        holder = self._holder(split)
        try:
            found = []
            for row in rows:
                self._stop.check()
                found.append(holder.call("answers", row.texts))
            return found
        finally:
            holder.close()

    def unjudged(
        self, split: str, work: Sequence[tuple[Center, Candidate]]
    ) -> list[tuple[Center, Candidate]]:
        """Those without a row, each direction around a center once."""
        return list(
            {
                (o.digest, c.digest): (o, c)
                for o, c in work
                if self._table.get(o.digest, split, c) is None
            }.values()
        )

    def check_weights(self, center: Center, candidate: Candidate, digest: str) -> None:
        """EngineError unless an engine's center + candidate has exactly the tensors of `digest`."""
        self._stop.check()
        for (done,) in self._judges.map_unordered(
            lambda actor, _: actor.digest.remote(center, candidate), [0]
        ):
            if isinstance(done, Failure):
                raise EngineError(f"{candidate.id}: no engine could load it: {done.reason}")
            if done.result != digest:
                raise EngineError(
                    f"{candidate.id}: an engine holds weights {done.result[:12]}..., "
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
                    + (f" ({evaluation.error})" if evaluation.error else "")
                    + "; mend the verifier, or allow more"
                )

    def count(self, center: Center, split: str, candidates: Sequence[Candidate]) -> int:
        """How many of the candidates have a row by now, those of other jobs included."""
        self._table.refresh()
        return len(candidates) - len(self._table.missing(center.digest, split, candidates))

    def means(self, center: Center, split: str, candidates: Sequence[Candidate]) -> np.ndarray:
        """Mean rewards (N,) of candidates that have been scored."""
        return self._table.means(center.digest, split, candidates)

    def rewards(self, center: Center, split: str, candidates: Sequence[Candidate]) -> np.ndarray:
        """Rewards (N, E) of candidates that have been scored, per example."""
        return self._table.rewards(center.digest, split, candidates)

    def evaluation(self, center: Center, split: str, candidate: Candidate) -> Evaluation:
        evaluation = self._table.get(center.digest, split, candidate)
        if evaluation is None:
            raise EngineError(f"{candidate.id} on {split}: scored, yet not in the reward table")
        return evaluation
