"""A pool of engines behind one queue: results in any order, whatever happens to the engines.

The event loop between the scheduler, which decides, and the fleet, which holds the actors. The
driver sleeps until a call is done, an engine is ready, or it is time to look at the cluster. See
docs/method.md, "Scheduling".
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError, TaskCancelledError

from corp_ray.cluster import EnginePlan
from corp_ray.errors import (
    CorpError,
    EngineError,
    EngineLostError,
    EngineUnfitError,
    TaskError,
)
from corp_ray.fleet import Engine, Fleet
from corp_ray.records import Failure
from corp_ray.scheduler import SchedulePolicy, Scheduler
from corp_ray.stopping import StopRequest
from corp_ray.supervised import Supervised, last_line

log = logging.getLogger(__name__)

T = TypeVar("T")
_TICK_S = 0.5  # between looks at deadlines and stop requests
_LOOK_S = 2.0  # between looks at the cluster
_PATIENCE_S = 120.0  # of silence, before the log says what is waited for
_NODE_DIED = "its node has died"  # in what Ray says of an actor that went with its node


@dataclass(frozen=True)
class Done:
    """The result of a piece of work, and its place in the batch."""

    index: int
    result: Any


@dataclass
class _Pending:
    """A call under way: its reference, the engine it is at, the actor it goes through, if any."""

    reference: Any
    engine: int
    through: Supervised | None


class Pool:
    """Scorer actors that do batches of work; see `map_unordered`.

    `start` makes an actor handle with the given Ray options, `warm` asks one to get ready (a
    reference to its `Ready`); `watch` is called every few seconds. Engines that describe themselves
    unlike the first are refused: their answers would not be comparable.
    """

    def __init__(
        self,
        start: Callable[[dict[str, Any]], Any],
        plan: EnginePlan,
        *,
        warm: Callable[[Any], Any],
        name: str,
        policy: SchedulePolicy,
        stop: StopRequest,
        watch: Callable[[], None] = lambda: None,
    ):
        self._events: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        self._scheduler = Scheduler(policy)
        self._fleet = Fleet(start, warm, self._expect, plan, name, policy.attempts)
        self._stop, self._watch = stop, watch
        self._first_s, self._room_s = policy.first_s, policy.room_s
        self._pending: dict[int, _Pending] = {}
        self._looked = self._heard = time.monotonic()
        self._through: Supervised | None = None
        self.description = ""

    # --- what the pool says of itself ---

    @property
    def ready(self) -> int:
        return len(self._scheduler.engines)

    @property
    def starting(self) -> int:
        return len(self._fleet.engines) - self.ready

    @property
    def restarts(self) -> int:
        return self._fleet.restarts

    def engine_seconds(self) -> tuple[float, float]:
        """(busy, ready) engine-seconds so far."""
        return self._scheduler.engine_seconds(time.monotonic())

    # --- its life ---

    def open(self) -> list[str]:
        """Wait for the first engine; the warnings on its way. The others join as they get ready.

        Errors: what the engine said, when none can work.
        """
        self._fleet.adjust()
        while not self.ready:
            self.wait()
        first = next(e.ready for e in self._fleet.engines.values() if e.ready is not None)
        return list(first.warnings)

    def wait(self) -> None:
        """Take in what happens to the engines while there is no work. Errors: as `open`."""
        self._stop.check()
        for _ in self._happenings({}):
            pass

    def renew(self) -> None:
        """The next calls load another center: their times say nothing of the ones before."""
        self._scheduler.renew()

    def close(self) -> None:
        """End the actors of this pool."""
        self._fleet.close()

    # --- work ---

    def map_unordered(
        self,
        call: Callable[[Any, int], Any],
        sizes: Sequence[float],
        *,
        through: Supervised | None = None,
    ) -> Iterator[list[Done | Failure]]:
        """What each piece of work came to, as it finishes; those that are there together at once.

        `call(actor, index)` starts a piece on an engine and returns the reference of its result,
        `sizes` are the pieces' sizes in prompts (0: not to be measured). `through`: the actor that
        the calls go through where they do not go to the engine itself. Errors: StoppedError when
        a stop is asked for, after what runs has been waited for; EngineError, CheckpointError, ...
        when no engine can work any more.
        """
        self._scheduler.begin(sizes)
        self._through = through
        given_up: dict[int, str] = {}
        self._heard = time.monotonic()
        while self._scheduler.unfinished:
            if self._stop.requested:
                self._withdraw(wanted=True)
                if self._stop.overdue or not self._scheduler.running:
                    self._stop.check()
            else:
                self._dispatch(call)
            done: list[Done | Failure] = list(self._happenings(given_up))
            done += [Failure(n, why, self._scheduler.tries(n)) for n, why in given_up.items()]
            given_up.clear()
            if not self._stop.requested:
                self._dispatch(call)  # before whoever takes the results makes engines wait
            if done:
                yield done
        self._withdraw(wanted=False)

    def _withdraw(self, *, wanted: bool) -> None:
        """Take back calls that engines have not begun."""
        for number in self._scheduler.waiting(wanted=wanted):
            ray.cancel(self._pending[number].reference)

    def _dispatch(self, call: Callable[[Any, int], Any]) -> None:
        for made in self._scheduler.assign(time.monotonic()):
            reference = call(self._fleet.engines[made.engine].actor, made.task)
            self._pending[made.number] = _Pending(reference, made.engine, self._through)
            self._follow("call", made.number, reference)

    def _expect(self, engine: Engine) -> None:
        self._follow("began", engine.number, engine.placed)
        self._follow("ready", engine.number, engine.starting)

    def _follow(self, kind: str, number: int, reference: Any) -> None:
        """Put an event into the queue when the reference has a value; Ray calls from a thread."""
        events = self._events
        reference.future().add_done_callback(lambda future: events.put((kind, number, future)))

    def _happenings(self, given_up: dict[int, str]) -> Iterator[Done]:
        """Wait for events, take in all there are, look after the engines; results of pieces."""
        try:
            events = [self._events.get(timeout=_TICK_S)]
        except queue.Empty:
            events = []
        while not self._events.empty():
            events.append(self._events.get())
        if events:
            self._heard = time.monotonic()
        for kind, number, future in events:
            if kind == "began":
                self._fleet.has_begun(number)
                continue
            if kind == "ready":
                self._take_in(number, future)
                continue
            if number in self._pending:
                task = self._settle(number, future, given_up)
                if task is not None:
                    yield Done(task, future.result())
        self._look(given_up)

    def _take_in(self, number: int, future: Any) -> None:
        """An engine that was starting is ready, cannot work here, or is gone."""
        if number not in self._fleet.engines:
            return
        try:
            ready = future.result()
        except RayError as error:
            self._fleet.failed(number, last_line(error))
            return
        engine = self._fleet.arrived(number, ready)
        if engine is None:
            return
        if self.description and ready.description != self.description:
            other = EngineError(
                f"engines differ: {ready.description!r} on node {ready.node[:12]}, "
                f"{self.description!r} elsewhere"
            )
            self._fleet.exclude(number, ready.node, other)
            return
        self.description = ready.description
        self._scheduler.join(number, time.monotonic())

    def _settle(self, number: int, future: Any, given_up: dict[int, str]) -> int | None:
        """Account for a call that is over; the piece whose result it is."""
        pending = self._pending.pop(number)
        engine = pending.engine
        now = time.monotonic()
        error = future.exception()
        if error is None:
            return self._scheduler.finish(number, now)
        if isinstance(error, TaskCancelledError):
            self._scheduler.fail(number, now, blame=False)
            return None
        reason = last_line(error)
        cause = getattr(error, "cause", None)
        if isinstance(error, RayTaskError) and not isinstance(cause, (EngineLostError, RayError)):
            if isinstance(cause, TaskError):  # whatever the engine: the gate has other data
                raise cause
            if isinstance(cause, EngineUnfitError) or getattr(cause, "exit_code", 1) == 2:
                # This node lacks something: its engines cannot do the next piece either.
                self._engine_gone(engine, reason, given_up, blame=False, error=cause)
                return None
            if isinstance(cause, CorpError) and not isinstance(cause, EngineError):
                # A disk or a storage: the piece is not to blame, and the next would fail as well.
                self._engine_gone(engine, reason, given_up, blame=False)
                return None
            log.warning("%s", reason)
            task = self._scheduler.fail(number, now)
            if task is not None:
                given_up[task] = reason
            if self._scheduler.is_sick(engine):
                self._engine_gone(engine, reason, given_up, blame=False)
            return None
        if pending.through is not None and not isinstance(error, RayTaskError):
            # The actor in between is gone, not the engine; by now it may be gone with its batch.
            if pending.through is self._through:
                pending.through.revive()
            self._scheduler.fail(number, now, blame=False)
            return None
        # Without contact nobody knows whether the process died, or its node did.
        unclear = isinstance(cause or error, ActorUnavailableError) or _NODE_DIED in str(error)
        self._engine_gone(engine, reason, given_up, blame=not unclear)
        return None

    def _engine_gone(
        self,
        number: int,
        reason: str,
        given_up: dict[int, str],
        *,
        blame: bool,
        error: CorpError | None = None,
    ) -> None:
        """Drop an engine with all its calls; the fleet starts another one."""
        engine = self._fleet.engines[number]
        for call in [n for n, pending in self._pending.items() if pending.engine == number]:
            del self._pending[call]
        for task in self._scheduler.leave(number, time.monotonic(), blame=blame):
            given_up[task] = f"its engine was lost: {reason}"
        if error is not None and engine.ready is not None:
            self._fleet.exclude(number, engine.ready.node, error)
        else:
            log.warning("engine %d was lost; starting another (%s)", number, reason)
            self._fleet.lost(number)
        self._fleet.adjust()

    def _look(self, given_up: dict[int, str]) -> None:
        """Now and then: hung engines, nodes that came or went, a word to whoever waits."""
        now = time.monotonic()
        for number in self._scheduler.overdue(now):
            self._engine_gone(number, "no answer within its deadline", given_up, blame=True)
        if now - self._looked >= _LOOK_S:
            self._looked = now
            for number in self._fleet.late(self._first_s):
                self._fleet.failed(number, f"not ready after {self._first_s:g} s")
            self._fleet.adjust()
            self._fleet.check_room(self._room_s)
            self._watch()
        if now - self._heard >= _PATIENCE_S:
            self._heard = now
            log.info(
                "nothing finished for %.0f s: %d engines at work, %d wait for room or are starting",
                _PATIENCE_S,
                self.ready,
                self.starting,
            )
