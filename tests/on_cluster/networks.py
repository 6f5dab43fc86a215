"""Where the nodes of a test cluster live: one network namespace each, or all in this one.

Namespaces hang on a bridge in a namespace of its own, so their addresses exist nowhere else and
the machine's own network is not touched. They need root with CAP_NET_ADMIN and `ip`. Names carry
the process id of the tests, so that what a killed test run left behind is found and removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_PREFIX = "corp-cluster-"
_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_KILL_S = 20.0


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _kill(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Namespaces:
    """A bridge with one namespace a node; addresses are 10.99.0.1, 10.99.0.2, ..."""

    note = "each node in a network namespace of its own"

    def __init__(self, name: str):
        self._name, self._count = name, 0
        self._ports: dict[str, str] = {}
        self._switch = f"{name}.switch"
        _ip("netns", "add", self._switch)
        try:
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
        except OSError:
            self.close()
            raise

    def _namespace(self, node: str) -> str:
        return f"{self._name}.{node}"

    def add(self, node: str) -> str:
        """A place for a node; its address."""
        self._count += 1
        port, namespace = f"port{self._count}", self._namespace(node)
        address = f"10.99.0.{self._count}"
        _ip("netns", "add", namespace)
        self._ports[node] = port
        peer = ("type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "add", port, *peer)
        _ip("-n", self._switch, "link", "set", port, "master", "br0")
        _ip("-n", self._switch, "link", "set", port, "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        return address

    def port(self, usual: int) -> int:
        return usual

    def enter(self, node: str) -> list[str]:
        """What stands before a command that shall run in the node's place."""
        return ["ip", "netns", "exec", self._namespace(node)]

    def connect(self, node: str, address: tuple[str, int]) -> socket.socket:
        """A connection to `address` made from the node's place, for use anywhere."""
        made: list[socket.socket | OSError] = []

        def inside() -> None:  # a thread of its own: it stays in the namespace to its end
            try:
                with (_NETNS / self._namespace(node)).open() as place:
                    if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_connection(address, timeout=10))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def root(self, node: str, process: int) -> None:
        """Nothing: the namespace knows its processes."""

    def processes(self, node: str) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self._namespace(node)).split()]

    def cut(self, node: str) -> None:
        """Pull the node's cable: nobody hears that its connections end."""
        _ip("-n", self._switch, "link", "set", self._ports[node], "down")

    def remove(self, node: str) -> None:
        """Kill all that runs there, and take the place away."""
        _remove(self._namespace(node))

    def close(self) -> None:
        _remove(self._switch)


def _remove(namespace: str) -> None:
    deadline = time.monotonic() + _KILL_S
    while processes := _ip("netns", "pids", namespace).split():
        _kill([int(pid) for pid in processes])
        if time.monotonic() > deadline:
            raise OSError(f"{namespace}: processes that SIGKILL does not end: {processes}")
        time.sleep(0.02)
    _ip("netns", "del", namespace)


class OneNamespace:
    """The fallback: every node on 127.0.0.1 with ports of its own; a cable cannot be pulled."""

    note = "NO NETWORK NAMESPACES HERE (they need root): all nodes share one, with distinct ports"

    def __init__(self, name: str):
        self._roots: dict[str, list[int]] = {}

    def add(self, node: str) -> str:
        self._roots[node] = []
        return "127.0.0.1"

    def port(self, usual: int) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def enter(self, node: str) -> list[str]:
        return []

    def connect(self, node: str, address: tuple[str, int]) -> socket.socket:
        return socket.create_connection(address, timeout=10)

    def root(self, node: str, process: int) -> None:
        """Count a process and what it starts as the node's."""
        self._roots[node].append(process)

    def processes(self, node: str) -> list[int]:
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                text = stat.read_text()
                if text.rpartition(")")[2].split()[0] != "Z":
                    parent = int(text.rpartition(")")[2].split()[1])
                    parents.setdefault(parent, []).append(int(stat.parent.name))
        found = [pid for pid in self._roots[node] if Path(f"/proc/{pid}").exists()]
        for pid in found:
            found.extend(parents.get(pid, []))
        return found

    def cut(self, node: str) -> None:
        """Nothing: there is no cable."""

    def remove(self, node: str) -> None:
        _kill(self.processes(node))
        del self._roots[node]

    def close(self) -> None:
        """Nothing is left."""


def make(name: str) -> Namespaces | OneNamespace:
    """Namespaces where they are allowed, else the fallback."""
    try:
        return Namespaces(name)
    except OSError:
        return OneNamespace(name)


def unique(number: int) -> str:
    return f"{_PREFIX}{os.getpid()}-{number}"


def sweep(folder: Path) -> None:
    """Remove what test runs that are no longer alive left: namespaces, and folders in `folder`."""

    def is_stale(name: str) -> bool:
        matched = re.match(rf"{_PREFIX}(\d+)-", name)
        return bool(matched) and not Path(f"/proc/{matched[1]}").exists()

    for place in _NETNS.glob(f"{_PREFIX}*"):
        if is_stale(place.name):
            _remove(place.name)
    for left in folder.glob(f"{_PREFIX}*"):
        if is_stale(left.name):
            _kill(_mentioning(f"{left}/"))
            shutil.rmtree(left, ignore_errors=True)


def _mentioning(text: str) -> list[int]:
    """Processes whose command line names something."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in line.read_bytes():
                found.append(int(line.parent.name))
    return found


def alone(name: str, without: Path | None) -> list[str]:
    """What gives a command a host name of its own, and an empty folder where one is to be missing.

    Where namespaces are not allowed the host name stays; an empty folder cannot be had then.
    """
    script = f"hostname {name}; "
    if without is not None:
        script += f'mount -t tmpfs none "{without}"; '
    wrapped = ["unshare", "--uts", "--mount", "sh", "-ec", script + 'exec "$@"', "sh"]
    probe = ["unshare", "--uts", "--mount", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return wrapped
    if without is not None:
        raise OSError("a folder can be hidden from one node only with mount namespaces")
    return []
