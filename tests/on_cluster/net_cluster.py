"""A real Ray cluster of several nodes on one machine: `ray start` for each, in a place of its own.

Every node has its own temporary folder, working folder, host name and (see networks.py) network.
They share the file system, as machines with a shared mount do. Nothing of any other Ray on this
machine is used or stopped.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.on_cluster import networks

_NUMBERS = count()
_START_S = 120.0
_TEMP = Path("/tmp")  # short: a path to a Unix socket holds 107 characters
_STORE_BYTES = 90 * 2**20

# For tests only: a dead node is noticed within seconds, not within half a minute, and a machine
# that is full of other work kills no worker of ours.
_SETTINGS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def _environment(token: str, **changes: str) -> dict[str, str]:
    """What a node starts with: this Python first in PATH, and nothing that names this folder."""
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "LC_ALL", "USER")}
    binaries = str(Path(sys.executable).parent)
    path = {"PATH": f"{binaries}:{os.environ.get('PATH', os.defpath)}"}
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return kept | path | _SETTINGS | secret | changes


@dataclass
class Node:
    """One `ray start --block` and where it lives."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] = field(default_factory=dict)


class NetCluster:
    """One head, and worker nodes that come and go. `stop` ends all of it and leaves nothing."""

    def __init__(self) -> None:
        networks.sweep(_TEMP)
        name = networks.unique(next(_NUMBERS))
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_TEMP))
        self.network = networks.make(name)
        self.nodes: dict[str, Node] = {}
        self.token = secrets.token_hex(16)
        self._count = count(1)
        self._started: list[subprocess.Popen[str]] = []

    @property
    def head(self) -> Node:
        return self.nodes["head"]

    @property
    def gcs(self) -> str:
        return f"{self.head.address}:{self.head.ports['gcs']}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:{self.head.ports['dashboard']}"

    def start_head(self, num_cpus: int) -> Node:
        node = self._place("head")
        node.ports = {
            "gcs": self.network.port(6379),
            "dashboard": self.network.port(8265),
            "client": self.network.port(10001),
        }
        self._ray_start(
            node,
            num_cpus,
            "--head",
            f"--port={node.ports['gcs']}",
            "--include-dashboard=true",
            f"--dashboard-host={node.address}",
            f"--dashboard-port={node.ports['dashboard']}",
            f"--ray-client-server-port={node.ports['client']}",
        )
        self.wait(lambda: self._answers(), "the head's dashboard")
        return node

    def start_node(self, num_cpus: int, *, without: Path | None = None, wait: bool = True) -> Node:
        """A worker node; with `without` that folder is empty for all that runs there."""
        node = self._place(f"node{next(self._count)}")
        self._ray_start(node, num_cpus, f"--address={self.gcs}", without=without)
        if wait:
            self.wait(lambda: node.name in self.alive(), f"{node.name} in the cluster")
        return node

    def kill_node(self, node: Node, *, cable: bool = True) -> None:
        """End a node as a power failure does: silence on its connections, then SIGKILL for all.

        Without `cable` the connections are closed by the kernel, as when the machine stays up.
        """
        if cable:
            self.network.cut(node.name)
        self.network.remove(node.name)
        assert node.process is not None
        node.process.wait()
        del self.nodes[node.name]

    def complete(self, workers: int, num_cpus: int) -> None:
        """Bring the number of worker nodes to `workers`, all of them in the cluster."""
        there = [node for node in self.nodes.values() if node.name != "head"]
        for node in there[workers:]:
            self.kill_node(node)
        for _ in range(workers - len(there)):
            self.start_node(num_cpus, wait=False)
        self.wait(lambda: self.alive().keys() == self.nodes.keys(), "all nodes")

    def quiet(self) -> None:
        """End what was started on the cluster and still runs: processes, jobs, their actors."""
        self._end_started()
        for job in self.ask("/api/jobs/"):
            if job["type"] == "SUBMISSION" and job["status"] in ("PENDING", "RUNNING"):
                self.ask(f"/api/jobs/{job['submission_id']}/stop", "POST")
        self.wait(lambda: not self.actors(), "the end of all actors")

    def _end_started(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        self._started.clear()

    def stop(self) -> None:
        """End everything, what comes after a failure too."""
        with contextlib.ExitStack() as steps:
            steps.callback(shutil.rmtree, self.folder, ignore_errors=True)
            steps.callback(self.network.close)
            for node in list(self.nodes.values()):
                steps.callback(self.kill_node, node)
            steps.callback(self._end_started)

    def _place(self, name: str) -> Node:
        folder = self.folder / name
        (folder / "work").mkdir(parents=True)
        node = Node(name, self.network.add(name), folder)
        self.nodes[name] = node
        return node

    def _ray_start(
        self, node: Node, num_cpus: int, *options: str, without: Path | None = None
    ) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        ray += [
            f"--node-ip-address={node.address}",
            f"--num-cpus={num_cpus}",
            f"--object-store-memory={_STORE_BYTES}",
            f"--temp-dir={node.folder}/t",
            f"--dashboard-agent-listen-port={self.network.port(52365)}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
            f"--labels=corp-node={node.name}",
        ]
        with (node.folder / "ray.log").open("wb") as log:
            node.process = subprocess.Popen(
                [*self.network.enter(node.name), *networks.alone(node.name, without), *ray],
                cwd=node.folder / "work",
                env=_environment(self.token),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.network.root(node.name, node.process.pid)

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = _START_S) -> Any:
        """The first true value of `condition`. TimeoutError with the nodes' own words."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            ended = [n for n in self.nodes.values() if n.process and n.process.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = [(n.folder / "ray.log").read_text()[-1500:] for n in ended]
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s; {logs}")
            time.sleep(0.1)
        return value

    def _answers(self) -> bool:
        try:
            return bool(self.ask("/api/version"))
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def ask(self, path: str, method: str = "GET") -> Any:
        """What the head's dashboard answers, from JSON."""
        host, port = self.head.address, self.head.ports["dashboard"]
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self.network.connect("head", (host, port))
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise ValueError(f"{path}: {answer.status} {text[:300]!r}")
            return json.loads(text)
        finally:
            connection.close()

    def _state(self, kind: str) -> list[dict[str, Any]]:
        return self.ask(f"/api/v0/{kind}?limit=10000&detail=1")["data"]["result"]["result"]

    def alive(self) -> dict[str, str]:
        """Node id by name, of the nodes that the cluster holds for alive."""
        labels = {n["node_id"]: n for n in self._state("nodes") if n["state"] == "ALIVE"}
        return {n["labels"].get("corp-node", ""): node_id for node_id, n in labels.items()}

    def actors(self, *, dead: bool = False) -> list[dict[str, Any]]:
        """The cluster's actors as its state API shows them; those of Ray's own jobs left out."""
        return [
            actor
            for actor in self._state("actors")
            if (dead or actor["state"] != "DEAD") and not actor["class_name"].startswith("Job")
        ]

    def placement_groups(self) -> list[dict[str, Any]]:
        return [g for g in self._state("placement_groups") if g["state"] != "REMOVED"]

    def job(self, submission_id: str) -> dict[str, Any]:
        return self.ask(f"/api/jobs/{submission_id}")

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        node: str = "head",
        **environment: str,
    ) -> subprocess.Popen[str]:
        """A process in a node's place, its output captured."""
        process = subprocess.Popen(
            [*self.network.enter(node), *command],
            cwd=cwd,
            env=_environment(self.token, **environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def submit(
        self,
        folder: Path,
        submission_id: str,
        *command: str,
        env_vars: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """`ray job submit --working-dir . -- command` in `folder`; ends when the job does."""
        return self.start(
            [
                "ray",
                "job",
                "submit",
                f"--address={self.dashboard}",
                "--working-dir=.",
                f"--submission-id={submission_id}",
                f"--runtime-env-json={json.dumps({'env_vars': env_vars or {}})}",
                "--",
                *command,
            ],
            cwd=folder,
        )
