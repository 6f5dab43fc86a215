"""The Ray cluster: joining one, what its nodes hold, and how many engines that makes.

A driver that joins a cluster takes its own package along, so nodes need only what the package
depends on. Nothing is detached, nothing that this process did not start is stopped.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import socket
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from corp_ray.errors import ConfigError
from corp_ray.stopping import StopRequest

log = logging.getLogger(__name__)

_REACH_S = 10.0
_LOOK_S = 2.0


def _check_address(address: str) -> None:
    """ConfigError for an address that a driver cannot join, or where nothing listens (Ray itself
    would try for minutes)."""
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address!r}: expected host:port of the cluster's GCS, as `ray start` "
            "prints it; from outside the cluster use `ray job submit --address http://host:8265`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"RAY_ADDRESS={address!r}: expected host:port, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS={address!r}: no Ray there ({error}); unset it to start a local Ray"
        ) from error


def submitted() -> bool:
    """Whether this driver was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def is_local() -> bool:
    """Whether `connect` starts a Ray of its own on this machine."""
    return os.environ.get("RAY_ADDRESS", "local") in ("", "local")


def _carried(modules: Iterable[str]) -> dict[str, Any]:
    """A runtime environment with this package and the user's modules that are not installed.

    Empty where the submitted job brings a working directory, which has them.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if (job.get("runtime_env") or {}).get("working_dir"):
        return {}
    installed = Path(sysconfig.get_path("purelib"))
    paths = {str(Path(__file__).resolve().parent)}
    for name in modules:
        spec = importlib.util.find_spec(name.partition(".")[0])
        origins = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        paths |= {o for o in origins if o and not Path(o).is_relative_to(installed)}
    return {"py_modules": sorted(paths)}


def connect(modules: Iterable[str] = ()) -> None:
    """Join the cluster that RAY_ADDRESS (or the submitted job) names, else start a local Ray.

    `modules`: names of the user's modules that actors import. Errors: ConfigError when there is no
    cluster, or one of another Ray or Python version.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    arguments: dict[str, Any] = {}
    if address == "local":
        arguments = {"include_dashboard": False, "object_store_memory": 128 * 2**20}
    elif address != "auto":
        _check_address(address)
    if address != "local":
        arguments["runtime_env"] = _carried(modules)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **arguments)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ConnectionError) and address != "local":
            # Something listens there, and Ray does not tell a refused token from no answer.
            reason += "; is RAY_AUTH_TOKEN the cluster's?"
        raise ConfigError(f"RAY_ADDRESS={address!r}: cannot join ({reason})") from error


def here() -> NodeAffinitySchedulingStrategy:
    """Places an actor that needs no engine on the caller's node, where model and data are known to
    be: Ray puts what takes no CPU slot on any node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def disconnect() -> None:
    ray.shutdown()


@dataclass(frozen=True)
class EnginePlan:
    """What one engine takes, all on one node, and how many there may be (0: what fits)."""

    limit: int
    cpus: int
    gpus: float
    ranks: int = 1  # processes that share one engine's model
    spare: int = 0  # places that are left free for another kind of engine

    def judge(self) -> EnginePlan:
        """One engine beside these, of one rank."""
        return EnginePlan(1, self.cpus // self.ranks, self.gpus / self.ranks)

    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def fits(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many engines these nodes' resources hold."""

        def places(node: Mapping[str, float]) -> int:
            by_gpu = node.get("GPU", 0.0) / self.gpus + 1e-9 if self.gpus else math.inf
            return int(min(node.get("CPU", 0.0) // self.cpus, by_gpu))

        return sum(map(places, nodes))

    def wanted(self, places: int) -> int:
        """How many engines to ask for where `places` fit: the limit (what is beyond the places
        waits, which is what an autoscaler goes by), else all that fit."""
        if self.limit and not self.spare:
            return self.limit
        return min(self.limit or places, max(places - self.spare, 0))


def nodes(excluded: Iterable[str] = ()) -> list[dict[str, float]]:
    """Resources of each living node, those with an excluded id left out."""
    return [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in set(excluded)
    ]


def plan_engines(
    *,
    engines: int,
    gpus_per_engine: float,
    threads: int,
    device: str,
    ranks: int = 1,
    judge: bool = False,
    wait_s: float = 0.0,
    stop: StopRequest | None = None,
) -> EnginePlan:
    """What an engine takes; an engine of several ranks takes its threads for each.

    With `judge` the place of one engine is left free for another kind. A cluster that cannot hold
    one engine yet is given `wait_s` to grow. Errors: ConfigError when it does not.
    """
    deadline, told = time.monotonic() + (0.0 if is_local() else wait_s), False
    while True:
        try:
            return _plan(nodes(), engines, gpus_per_engine, threads, device, ranks, judge)
        except ConfigError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                log.info("%s; waiting up to %.0f s for nodes", error, wait_s)
                told = True
        if stop is not None:
            stop.check()
        time.sleep(min(_LOOK_S, max(deadline - time.monotonic(), 0.01)))


def _plan(
    found: Sequence[Mapping[str, float]],
    engines: int,
    gpus_per_engine: float,
    threads: int,
    device: str,
    ranks: int,
    judge: bool,
) -> EnginePlan:
    cpus = threads * ranks
    most_gpus = max((node.get("GPU", 0.0) for node in found), default=0.0)
    most_cpus = max((node.get("CPU", 0.0) for node in found), default=0.0)
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
    plan = EnginePlan(engines, cpus, gpus_per_engine, ranks, spare=int(judge))
    fits = plan.fits(found)
    if fits == 0:
        raise ConfigError(
            f"{needs}, ray.gpus_per_engine={gpus_per_engine:g}: no node has both for one engine"
        )
    if judge and fits == 1:
        raise ConfigError("engine.judge: the cluster holds one engine only; it needs two")
    if engines > fits - judge:
        if is_local():
            raise ConfigError(f"ray.engines={engines}: the cluster holds at most {fits - judge}")
        log.info("ray.engines=%d: %d fit now, more start as nodes join", engines, fits - judge)
    return plan
