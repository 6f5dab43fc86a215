"""Ray: connecting, and a pool of scorer actors with bounded in-flight dispatch in any order.

A lost actor is replaced and its calls go back to the queue; a piece of work that fails `attempts`
times comes back as an EvaluationFailure, and the driver decides. Nothing is detached, nothing
that this process did not start is stopped.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from corp_ray.errors import ConfigError, CorpError, EngineError, EngineLostError
from corp_ray.records import Candidate, Center, Evaluation, EvaluationFailure, Work

log = logging.getLogger(__name__)

_REACH_S = 10.0
_PATIENCE_S = 120.0


def _check_reachable(address: str) -> None:
    """ConfigError when nothing listens at host:port (Ray itself would try for minutes)."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS={address!r}: no Ray there ({error}); unset it to start a local Ray"
        ) from error


def connect() -> None:
    """Join the cluster that RAY_ADDRESS (or the submitted job) names, else start a local Ray."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("local", "auto"):
        _check_reachable(address)
    local: dict[str, Any] = {}
    if address == "local":
        local = {"include_dashboard": False, "object_store_memory": 128 * 2**20}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"RAY_ADDRESS={address!r}: cannot join ({reason})") from error


def disconnect() -> None:
    ray.shutdown()


@dataclass(frozen=True)
class EnginePlan:
    """How many engines, and what each takes: CPU slots and GPUs, all on one node."""

    count: int
    cpus: int
    gpus: float
    ranks: int = 1  # processes that share one engine's model

    def judge(self) -> EnginePlan:
        """One engine beside these, of one rank."""
        return EnginePlan(1, self.cpus // self.ranks, self.gpus / self.ranks)

    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


def plan_engines(
    *,
    engines: int,
    gpus_per_engine: float,
    threads: int,
    device: str,
    ranks: int = 1,
    judge: bool = False,
) -> EnginePlan:
    """What the connected cluster holds; an engine of several ranks takes its threads for each.

    With `judge` the place of one engine is left free for another kind.

    Errors: ConfigError when an engine fits on no node.
    """
    cpus = threads * ranks
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    most_cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    if gpus_per_engine < 0:
        on_gpu = device == "cuda" or (device == "auto" and most_gpus)
        gpus_per_engine = float(ranks) if on_gpu else 0.0
    if gpus_per_engine > most_gpus:
        raise ConfigError(
            f"ray.gpus_per_engine={gpus_per_engine:g}: no node has more than {most_gpus:g} GPUs"
        )
    needs = f"engine.threads={threads}"
    if ranks > 1:
        needs += f", engine.tensor_parallel={ranks}"
    if cpus > most_cpus:
        raise ConfigError(f"{needs}: no node has more than {most_cpus:g} CPUs")
    fits = sum(
        int(
            min(
                node.get("CPU", 0.0) // cpus,
                node.get("GPU", 0.0) / gpus_per_engine + 1e-9 if gpus_per_engine else math.inf,
            )
        )
        for node in nodes
    )
    if fits == 0:
        raise ConfigError(
            f"{needs}, ray.gpus_per_engine={gpus_per_engine:g}: no node has both for one engine"
        )
    if judge:
        fits -= 1
        if fits == 0:
            raise ConfigError("engine.judge: the cluster holds one engine only; it needs two")
    if engines > fits:
        raise ConfigError(f"ray.engines={engines}: the cluster holds at most {fits}")
    return EnginePlan(engines or fits, cpus, gpus_per_engine, ranks)


class Pool:
    """Scorer actors behind one queue.

    `start` makes an actor handle with the given Ray options; an engine of several ranks gets a
    placement group of its own, which keeps it on one node and goes with the pool. `warm` is called
    on each handle and returns the reference to wait for before it counts as started; `started` has
    the results. Errors: EngineError when actors cannot be started.
    """

    def __init__(
        self,
        start: Callable[[dict[str, Any]], Any],
        plan: EnginePlan,
        *,
        warm: Callable[[Any], Any],
        in_flight: int = 2,
        attempts: int = 3,
    ):
        self._begin, self._plan = start, plan
        self._in_flight, self._attempts = in_flight, attempts
        self.restarts = 0
        self._groups: list[PlacementGroup] = []
        if plan.ranks > 1:
            self._groups = [
                placement_group([plan.resources()], strategy="STRICT_PACK")
                for _ in range(plan.count)
            ]
        self._actors = [self._start(slot) for slot in range(plan.count)]
        self.started = [self._first(ref) for ref in [warm(actor) for actor in self._actors]]

    def __len__(self) -> int:
        return len(self._actors)

    def _start(self, slot: int) -> Any:
        options: dict[str, Any] = {"num_cpus": self._plan.cpus, "num_gpus": self._plan.gpus}
        if self._groups:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._groups[slot])
        return self._begin(options)

    @staticmethod
    def _first(reference: Any) -> Any:
        while not ray.wait([reference], timeout=_PATIENCE_S)[0]:
            log.info("still waiting for an engine: the cluster is busy, or the model is large")
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise _cause(error) from error
        except RayError as error:
            raise EngineError(f"an engine failed to start: {_last_line(error)}") from error

    def _replace(self, slot: int) -> None:
        self.restarts += 1
        log.warning("engine %d was lost; starting another", slot)
        ray.kill(self._actors[slot])
        self._actors[slot] = self._start(slot)

    def map_unordered(
        self, works: Iterable[Work]
    ) -> Iterator[list[Evaluation] | EvaluationFailure]:
        """Results in the order they finish; at most `in_flight` calls wait at one actor."""
        queue = deque((work, 0) for work in works)
        waiting: list[deque[tuple[Any, Work, int]]] = [deque() for _ in self._actors]
        while queue or any(waiting):
            for depth in range(self._in_flight):
                for slot, calls in enumerate(waiting):
                    if queue and len(calls) <= depth:
                        work, tried = queue.popleft()
                        calls.append((self._actors[slot].score.remote(work), work, tried))
            references = {calls[0][0]: slot for slot, calls in enumerate(waiting) if calls}
            done, _ = ray.wait(list(references), num_returns=1, timeout=_PATIENCE_S)
            if not done:
                log.info("nothing finished for %.0f s; still waiting for engines", _PATIENCE_S)
                continue
            slot = references[done[0]]
            reference, work, tried = waiting[slot].popleft()
            try:
                yield ray.get(reference)
                continue
            except RayTaskError as error:
                reason = _last_line(error)
                lost = isinstance(error.cause, EngineLostError)
            except RayError as error:
                reason, lost = f"its engine was lost ({_last_line(error)})", True
            if lost:
                self._replace(slot)
                queue.extendleft((w, t) for _, w, t in reversed(waiting[slot]))
                waiting[slot].clear()
            log.warning("%s on %s: %s", work.candidates[0].id, work.split, reason)
            if tried + 1 >= self._attempts:
                yield EvaluationFailure(work, reason, tried + 1)
            else:
                queue.appendleft((work, tried + 1))

    def leased(
        self, gate: Supervised, work: Sequence[tuple[Center, Candidate]]
    ) -> Iterator[Evaluation]:
        """Each (center, candidate) evaluated by the actor `gate` on an actor leased to it.

        The pool must be idle. A lost engine or gate is replaced. Errors: EngineError when a piece
        of work fails `attempts` times.
        """
        waiting, reason = list(work), ""
        for _ in range(self._attempts):
            calls = [
                (piece, gate.actor.evaluate.remote(self._actors[n % len(self)], *piece))
                for n, piece in enumerate(waiting)
            ]
            waiting = []
            for piece, reference in calls:
                try:
                    evaluation = ray.get(reference)
                except RayError as error:
                    reason = _last_line(error)
                    log.warning("leased engine, %s: %s", piece[1].id, reason)
                    waiting.append(piece)
                else:
                    yield evaluation
            if not waiting:
                return
            gate.revive()
            for slot, actor in enumerate(self._actors):
                if not is_alive(actor):
                    self._replace(slot)
        raise EngineError(f"no engine could answer in {self._attempts} attempts: {reason}")

    def digest(self, center: Center, candidate: Candidate) -> str:
        """Digest of the weights that center + candidate has in one of the engines."""
        for _ in range(self._attempts):
            try:
                return ray.get(self._actors[0].digest.remote(center, candidate))
            except RayTaskError as error:
                raise _cause(error) from error
            except RayError as error:
                log.warning("digest: %s", _last_line(error))
                self._replace(0)
        raise EngineError(f"no engine could load {candidate.id} in {self._attempts} attempts")

    def close(self) -> None:
        """End the actors of this pool."""
        for actor in self._actors:
            ray.kill(actor)
        for group in self._groups:
            remove_placement_group(group)


class Supervised:
    """One actor that is started again when it is lost; its calls must bear being repeated."""

    def __init__(self, start: Callable[[], Any], attempts: int = 3):
        self._start, self._attempts = start, attempts
        self.actor = start()

    def revive(self) -> None:
        if not is_alive(self.actor):
            self.actor = self._start()

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method. Errors: what the method raised; EngineError when it stays lost."""
        reason = ""
        for _ in range(self._attempts):
            try:
                return ray.get(getattr(self.actor, method).remote(*arguments))
            except RayTaskError as error:
                raise _cause(error) from error
            except RayError as error:
                reason = _last_line(error)
                log.warning("%s: %s", method, reason)
                self.revive()
        raise EngineError(f"{method}: its actor was lost {self._attempts} times ({reason})")

    def close(self) -> None:
        ray.kill(self.actor)


def is_alive(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=_PATIENCE_S)
        return True
    except GetTimeoutError:  # busy
        return True
    except RayError:
        return False


def _cause(error: RayTaskError) -> BaseException:
    """The exception raised in the actor when it is one of ours, else an EngineError about it."""
    return error.cause if isinstance(error.cause, CorpError) else EngineError(_last_line(error))


def _last_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, CorpError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
