"""Which engine does which piece of work: a pure state machine, without Ray and without a clock.

Whoever drives it says what happened and when; it says what to start. No barrier: an engine that is
done takes the next piece at once, and keeps one waiting so that it never idles on the driver. When
the queue is empty, idle engines take what waits behind a busy one, and a second copy of what runs
far longer than the rest (speculative execution, Dean & Ghemawat 2004); the first result counts.
See docs/method.md, "Scheduling".
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

COPIES = 2  # of one piece of work at a time
_REMEMBERED = 512  # measured times that deadlines and copies rest on
_MEASURED_FROM = 3  # times from which a straggler can be told from the rest


@dataclass(frozen=True)
class SchedulePolicy:
    """`in_flight`: calls at one engine, the running one included. `attempts`: engines that a piece
    of work may take down before it is set aside. `straggler`: a second copy starts after so many
    times the median time per unit of size. An engine counts as hung after `hang_floor_s` and `hang`
    times the longest; after `first_s` in its first call, and while nothing has been measured.
    `room_s`: how long engines may wait for another node where none works and one has refused."""

    in_flight: int = 2
    attempts: int = 3
    straggler: float = 2.0
    hang: float = 10.0
    hang_floor_s: float = 120.0
    first_s: float = 3600.0
    room_s: float = 60.0


@dataclass
class Call:
    """One piece of work at one engine; `started` once it is the first in that engine's line."""

    number: int
    task: int  # index into the batch
    batch: int
    engine: int
    size: float
    started: float | None = None


@dataclass
class _Task:
    size: float
    done: bool = False
    blamed: int = 0  # engines lost with this in their line, which may be why; it runs alone then
    lost: int = 0  # all engines lost while this ran
    calls: list[Call] = field(default_factory=list)


@dataclass
class _Engine:
    ready_since: float
    calls: deque[Call] = field(default_factory=deque)
    busy_s: float = 0.0
    cold: bool = True  # its next call does what others need not: load, compile, fill caches
    failed: set[int] = field(default_factory=set)  # tasks, since it last brought a result
    blames: list[int] = field(default_factory=list)  # those of them that it counts against
    sick: bool = False

    @property
    def fails(self) -> bool:
        """Whether it fails at whatever it gets, as far as is known."""
        return len(self.failed) > 1

    def succeeded(self) -> None:
        self.failed.clear()
        self.blames.clear()


class Scheduler:
    """State of one pool: its engines, the batch at hand, and calls left over from earlier ones."""

    def __init__(self, policy: SchedulePolicy):
        self._policy = policy
        self._engines: dict[int, _Engine] = {}
        self._calls: dict[int, Call] = {}
        self._tasks: list[_Task] = []
        self._queue: deque[int] = deque()
        self._batch = 0
        self._numbers = 0
        self._open = 0
        self._rates: deque[float] = deque(maxlen=_REMEMBERED)
        self._gone_busy_s = self._gone_ready_s = 0.0
        self._sick = 0  # engines called sick since any engine last brought a result

    # --- the batch ---

    def begin(self, sizes: Sequence[float]) -> None:
        """A new batch: one task per size (prompts to answer, say). Calls of the last one that
        still run keep their engines busy, and what they bring is ignored."""
        self._batch += 1
        self._tasks = [_Task(size) for size in sizes]
        self._queue = deque(range(len(sizes)))
        self._open = len(sizes)
        self._sick = 0
        for engine in self._engines.values():
            engine.succeeded()

    @property
    def unfinished(self) -> int:
        """Tasks of the batch that are neither done nor given up."""
        return self._open

    def tries(self, task: int) -> int:
        """How many engines have failed at a task of the batch."""
        return self._tasks[task].lost

    @property
    def running(self) -> int:
        """Calls of this batch that engines have begun and nobody has finished."""
        return sum(
            1
            for call in self._calls.values()
            if call.batch == self._batch and call.started is not None and self._is_open(call)
        )

    def _is_open(self, call: Call) -> bool:
        return call.batch == self._batch and not self._tasks[call.task].done

    # --- engines ---

    @property
    def engines(self) -> list[int]:
        return list(self._engines)

    def join(self, engine: int, now: float) -> None:
        self._engines[engine] = _Engine(now)

    def leave(self, engine: int, now: float, *, blame: bool) -> list[int]:
        """An engine is gone with its calls: tasks to give up; all others go back to the queue.

        `blame`: whether a piece may be the reason. Any in the line may be: an engine goes on with
        the next while the answers of the first are graded. Only one that was alone is given up.
        """
        gone = self._engines.pop(engine)
        self._gone_ready_s += now - gone.ready_since
        self._gone_busy_s += gone.busy_s
        given_up = []
        alone = len(gone.calls) == 1
        for call in reversed(gone.calls):
            del self._calls[call.number]
            if call.started is not None:
                self._gone_busy_s += now - call.started
            if call.batch == self._batch and self._lost(call, blame, alone):
                given_up.append(call.task)
        return given_up

    def renew(self) -> None:
        """Every engine's next call takes longer than its kind (it loads another center, say)."""
        for engine in self._engines.values():
            engine.cold = True

    def engine_seconds(self, now: float) -> tuple[float, float]:
        """(seconds with a call running, seconds there), summed over all engines there ever were."""
        busy, ready = self._gone_busy_s, self._gone_ready_s
        for engine in self._engines.values():
            ready += now - engine.ready_since
            busy += engine.busy_s
            if engine.calls and engine.calls[0].started is not None:
                busy += now - engine.calls[0].started
        return busy, ready

    # --- what happens to calls ---

    def finish(self, number: int, now: float) -> int | None:
        """A call has brought its result: the task to count it for, or None when it is too late."""
        call = self._remove(number, now)
        if call is None:
            return None
        engine = self._engines[call.engine]
        if call.started is not None and call.size and not engine.cold:
            self._rates.append((now - call.started) / call.size)
        if call.batch == self._batch:  # an earlier batch may have been around another center
            engine.cold = False
        engine.succeeded()
        self._sick = 0
        if not self._is_open(call):
            return None
        self._close(call.task)
        return call.task

    def fail(self, number: int, now: float, *, blame: bool = True) -> int | None:
        """A call failed and its engine lives: the task to give up, if that is due. Ask `is_sick`."""
        call = self._remove(number, now)
        if call is None or call.batch != self._batch:
            return None
        engine = self._engines[call.engine]
        if not blame:
            return call.task if self._lost(call, blame=False, alone=True) else None
        engine.failed.add(call.task)
        engine.sick = engine.fails and self._sick < self._policy.attempts
        self._sick += engine.sick
        # Whether it is the tasks or the engine: where nothing has succeeded anywhere since so many
        # were called sick, it is the tasks, unless another engine may still prove the contrary.
        if engine.sick or self._rests(engine):
            for task in engine.blames:
                self._tasks[task].blamed -= 1
            engine.blames.clear()
            return call.task if self._lost(call, blame=False, alone=True, last=True) else None
        engine.blames.append(call.task)
        return call.task if self._lost(call, blame=True, alone=True) else None

    def is_sick(self, engine: int) -> bool:
        """Whether an engine has failed at two tasks, one after the other: to be replaced."""
        return self._engines[engine].sick

    def _rests(self, engine: _Engine) -> bool:
        """Whether an engine that fails at whatever it gets waits for what others make of theirs."""
        return engine.fails and any(
            other.calls and not other.failed
            for other in self._engines.values()
            if other is not engine
        )

    def waiting(self, *, wanted: bool) -> list[int]:
        """Calls that wait behind others, for results that are still wanted, or are not."""
        return [
            call.number
            for call in self._calls.values()
            if call.started is None and self._is_open(call) == wanted
        ]

    def overdue(self, now: float) -> list[int]:
        """Engines whose running call is past every time that was measured: they count as hung."""
        return [
            number
            for number, engine in self._engines.items()
            if engine.calls
            and engine.calls[0].started is not None
            and now - engine.calls[0].started > self._deadline_s(engine)
        ]

    def _deadline_s(self, engine: _Engine) -> float:
        """How long the running call of an engine may take."""
        size = engine.calls[0].size
        if engine.cold or not size or not self._rates:
            return self._policy.first_s
        return max(self._policy.hang * max(self._rates) * size, self._policy.hang_floor_s)

    # --- what to do next ---

    def assign(self, now: float) -> list[Call]:
        """Calls to make now, each at the end of its engine's line."""
        if not self._open:
            return []
        made: list[Call] = []
        idle = [n for n, e in self._engines.items() if not e.calls and not self._rests(e)]
        for number in idle:
            if self._queue:
                made.append(self._call(self._queue.popleft(), number, now))
        # A second in line keeps an engine at work while the driver is elsewhere. The last pieces
        # wait here instead, for whichever engine is free first. What is blamed goes alone.
        for depth in range(1, self._policy.in_flight):
            for number, engine in self._engines.items():
                if len(self._queue) <= len(self._engines) or self._tasks[self._queue[0]].blamed:
                    break
                alone = engine.failed or any(map(self._suspect, engine.calls))
                if len(engine.calls) == depth and not alone:
                    made.append(self._call(self._queue.popleft(), number, now))
        if not self._queue:
            for number in idle[len(made) :]:
                task = self._worth_a_copy(now)
                if task is None:
                    break
                made.append(self._call(task, number, now))
        return made

    def _worth_a_copy(self, now: float) -> int | None:
        """The task that gains most from a second copy: one that waits, else the longest running.
        None of those that have taken an engine down: two copies would take down two at a time."""
        best, longest_s = None, -1.0
        limit = self._straggler_rate()
        seen: set[int] = set()
        for call in self._calls.values():
            if not self._is_open(call) or call.task in seen:
                continue
            task = self._tasks[call.task]
            seen.add(call.task)
            if task.blamed:
                continue
            started = [c.started for c in task.calls if c.started is not None]
            if not started:
                return call.task
            ran_s = now - min(started)
            late = bool(task.size) and ran_s > limit * task.size
            if late and len(task.calls) < COPIES and ran_s > longest_s:
                best, longest_s = call.task, ran_s
        return best

    def _straggler_rate(self) -> float:
        if len(self._rates) < _MEASURED_FROM:
            return float("inf")
        return self._policy.straggler * statistics.median(self._rates)

    # --- bookkeeping ---

    def _call(self, task: int, engine: int, now: float) -> Call:
        self._numbers += 1
        line = self._engines[engine].calls
        call = Call(self._numbers, task, self._batch, engine, self._tasks[task].size)
        call.started = None if line else now
        line.append(call)
        self._calls[call.number] = call
        self._tasks[task].calls.append(call)
        return call

    def _remove(self, number: int, now: float) -> Call | None:
        """Take a call out of its engine's line; None when it went with its engine before."""
        call = self._calls.pop(number, None)
        if call is None:
            return None
        engine = self._engines[call.engine]
        engine.calls.remove(call)
        if call.started is not None:
            engine.busy_s += now - call.started
        if engine.calls and engine.calls[0].started is None:
            engine.calls[0].started = now
        if call.batch == self._batch:
            self._tasks[call.task].calls.remove(call)
        return call

    def _suspect(self, call: Call) -> bool:
        return call.batch == self._batch and self._tasks[call.task].blamed > 0

    def _lost(self, call: Call, blame: bool, alone: bool, last: bool = False) -> bool:
        """Whether to give the task of a lost call up; else it is queued again, unless a copy runs:
        `last` when it may be to blame, or is to be."""
        task = self._tasks[call.task]
        if call in task.calls:
            task.calls.remove(call)
        if task.done:
            return False
        task.blamed += blame
        task.lost += blame or call.started is not None
        attempts = self._policy.attempts
        if (alone and task.blamed >= attempts) or task.lost >= 10 * attempts:
            self._close(call.task)
            return True
        if not task.calls:
            # What may have taken an engine down goes last: it must not hold up everything else.
            if blame or last:
                self._queue.append(call.task)
            else:
                self._queue.appendleft(call.task)
        return False

    def _close(self, task: int) -> None:
        self._tasks[task].done = True
        self._open -= 1
