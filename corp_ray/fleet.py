"""The engines of a pool as Ray actors: started where there is room, replaced, given back.

The fleet follows the cluster: more engines start as nodes join, those that a lost node leaves
without a place are withdrawn, and a node on which an engine cannot work is left out with a warning.
Actors are named with the run's id; none is detached.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from corp_ray import cluster
from corp_ray.cluster import EnginePlan
from corp_ray.errors import CorpError, EngineError
from corp_ray.records import Ready

log = logging.getLogger(__name__)

_NODE = "ray.io/node-id"
_REST_S, _LONGEST_REST_S = 5.0, 300.0  # after the first start that failed, and at most


@dataclass(kw_only=True)
class Engine:
    """One actor; `ready` is what it said when it was."""

    number: int
    actor: Any
    placed: Any  # reference that is there once its process is
    starting: Any  # reference to its Ready
    asked: float = field(default_factory=time.monotonic)
    began: float | None = None  # when its process was there: before, it waits for room
    group: PlacementGroup | None = None
    ready: Ready | None = None


@dataclass
class Fleet:
    """`start(options)` makes an actor handle, `warm(actor)` the reference to its `Ready`;
    `began(engine)` is told of each engine that starts, to watch for it."""

    start: Callable[[dict[str, Any]], Any]
    warm: Callable[[Any], Any]
    began: Callable[[Engine], None]
    plan: EnginePlan
    name: str
    attempts: int = 3
    engines: dict[int, Engine] = field(default_factory=dict)
    restarts: int = 0
    _numbers: int = 0
    _failures: int = 0  # starts in a row that no engine survived
    _failing_since: float = 0.0  # when the first of them failed
    _resting_until: float = 0.0  # no engine is started before, while others work or still may
    _good: set[str] = field(default_factory=set)  # nodes where an engine worked, not excluded since
    _excluded: set[str] = field(default_factory=set)  # nodes
    _reason: CorpError | None = None  # why the last of them

    def adjust(self) -> None:
        """Start engines where there is room for more; withdraw those that wait for a lost place.

        Errors: what the last engine said when none can work anywhere. Where one could, on a node
        that is gone, nodes are waited for.
        """
        places = self.plan.fits(cluster.nodes(self._excluded))
        wanted = self.plan.wanted(places) if places or not self._excluded else 0
        if not wanted and not self.engines:
            self._check_hope()
        waiting = [e for e in self.engines.values() if e.ready is None]
        for engine in reversed(waiting[: max(len(self.engines) - wanted, 0)]):
            self._end(engine)
        if not self._others_may_work() or time.monotonic() >= self._resting_until:
            while len(self.engines) < wanted:
                self._start_one()

    def _check_hope(self) -> None:
        """Errors: what the last engine said of its node, when there is none where one worked."""
        if self._reason is not None and not self._good:
            raise self._reason

    def _others_may_work(self) -> bool:
        """Whether an engine is ready, or at its start since before the last ones failed."""
        return any(
            engine.ready is not None
            or (engine.began is not None and engine.asked < self._failing_since)
            for engine in self.engines.values()
        )

    def _start_one(self) -> None:
        self._numbers += 1
        options: dict[str, Any] = {
            "name": f"corp_ray/{self.name}/{self._numbers}",
            "num_cpus": self.plan.cpus,
            "num_gpus": self.plan.gpus,
        }
        elsewhere = {_NODE: f"!in({','.join(sorted(self._excluded))})"} if self._excluded else {}
        group = None
        if self.plan.ranks > 1:
            group = placement_group(
                [self.plan.resources()],
                strategy="STRICT_PACK",
                bundle_label_selector=[elsewhere] if elsewhere else None,
            )
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group)
        elif elsewhere:
            options["label_selector"] = elsewhere
        actor = self.start(options)
        placed = actor.__ray_ready__.remote()  # before what takes long
        engine = Engine(
            number=self._numbers,
            actor=actor,
            placed=placed,
            starting=self.warm(actor),
            group=group,
        )
        self.engines[engine.number] = engine
        self.began(engine)

    def has_begun(self, number: int) -> None:
        """An engine's process is there, or it failed (then `failed` comes too)."""
        if number in self.engines:
            self.engines[number].began = time.monotonic()

    def late(self, limit_s: float) -> list[int]:
        """Engines whose process has been there for longer than this and is not ready."""
        now = time.monotonic()
        return [
            engine.number
            for engine in self.engines.values()
            if engine.ready is None and engine.began is not None and now - engine.began > limit_s
        ]

    def check_room(self, limit_s: float) -> None:
        """Errors: what the last engine said of its node, when none has worked anywhere else, and none
        of those started since has found a place for so long."""
        now, engines = time.monotonic(), self.engines.values()
        if engines and all(e.began is None and now - e.asked > limit_s for e in engines):
            self._check_hope()

    def arrived(self, number: int, ready: Ready) -> Engine | None:
        """An engine has started, or says why it cannot work on its node; None when that is so."""
        engine = self.engines.get(number)
        if engine is None:
            return None
        if ready.error is not None:
            self.exclude(number, ready.node, ready.error)
            return None
        self._failures = 0
        engine.ready = ready
        self._good |= {ready.node} - self._excluded
        return engine

    def exclude(self, number: int, node: str, error: CorpError) -> None:
        """Withdraw an engine and use its node no more in this run."""
        addresses = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes()}
        if len(addresses) > 1:
            error = type(error)(f"node {addresses.get(node, node[:12])}: {error}")
        if node not in self._excluded:
            log.warning("%s; no engine is started there any more", error)
            self._excluded.add(node)
        self._good.discard(node)
        self._reason = error
        self.drop(number)

    def failed(self, number: int, reason: str) -> None:
        """An engine was lost before it was ready. Errors: EngineError when that goes on, and no
        other works or is on its way; else longer and longer pauses come between the starts."""
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
        most = self.attempts * max(len(self.engines), 1)
        self.lost(number)
        if self._others_may_work():
            rest_s = min(_REST_S * 2.0 ** (self._failures - 1), _LONGEST_REST_S)
            self._resting_until = time.monotonic() + rest_s
            log.warning("an engine failed to start (%s); another in %.0f s", reason, rest_s)
        elif self._failures >= most:
            raise EngineError(f"an engine failed to start {self._failures} times: {reason}")
        else:
            log.warning("an engine failed to start (%s); starting another", reason)

    def lost(self, number: int) -> None:
        """An engine is gone; the next `adjust` starts another if there is room."""
        if number in self.engines:
            self.restarts += 1
            self.drop(number)

    def drop(self, number: int) -> None:
        engine = self.engines.get(number)
        if engine is not None:
            self._end(engine)

    def _end(self, engine: Engine) -> None:
        del self.engines[engine.number]
        ray.kill(engine.actor)
        if engine.group is not None:
            remove_placement_group(engine.group)

    def close(self) -> None:
        for engine in list(self.engines.values()):
            self._end(engine)
