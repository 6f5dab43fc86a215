"""A warm Python that puts up walls once and forks a box for every process that is asked of it.

The host asks over a control socket and hands over the sockets that the box's process shall hold;
neither program nor tests ever pass through this process. A box is a keeper, which holds the host's
life line, and the process itself. The keeper kills the process, and whatever it started, when it
ends or when the host lets go of the line, and then says how it ended. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from corp_ray.tasks.sandbox import guest, tester, walls

ROLES: dict[str, Callable[[list[socket.socket]], None]] = {
    "guest": guest.main,
    "tester": tester.main,
}
REQUEST_BYTES = 1 << 12
_MOST_SOCKETS = 3
_BOX = walls.NEW_PROCESSES | walls.NEW_MOUNTS | walls.NEW_IPC
_SHARED = walls.NEW_MOUNTS | walls.NEW_NETWORK | walls.NEW_IPC | walls.NEW_HOST_NAME
# What programs import most: loaded once here, in every box for free.
_WARM = (
    "abc array bisect calendar cmath collections copy dataclasses datetime decimal enum fractions "
    "functools heapq itertools json math operator random re statistics string sys time traceback typing"
)


def main(control: int, without: list[str]) -> None:
    """Serve until the host hangs up. `without` names layers to leave out."""
    os.environ.clear()
    sys.argv[:] = [""]
    sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)]
    for name in _WARM.split():
        importlib.import_module(name)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")  # short of memory, the kernel takes a program before a driver
    host = socket.socket(fileno=control)
    server = _Server(without)
    gc.freeze()
    with server.folder() as made:
        quiet = os.open("/dev/null", os.O_RDWR)
        os.dup2(quiet, 2)  # what programs print goes nowhere
        os.close(quiet)
        host.sendall(f"ready {made}".encode())
        server.serve(host)


class _Server:
    def __init__(self, without: list[str]):
        self._namespaces = "namespaces" not in without
        self._seccomp, self._landlock = "seccomp" not in without, "landlock" not in without
        self._several_users = os.geteuid() == 0 and "identity" not in without
        if self._namespaces:
            try:
                walls.unshare(_SHARED)
            except OSError:
                walls.be_root_of_own_users()
                walls.unshare(_SHARED)
                self._several_users = False
            walls.enter_empty_root()

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """Where there are no namespaces: one empty folder that nobody may write to."""
        if self._namespaces:
            yield ""
            return
        made = tempfile.mkdtemp(prefix="corp-box-")
        os.chmod(made, 0o555)
        os.chdir(made)
        try:
            yield made
        finally:
            with contextlib.suppress(OSError):  # the host may have been first
                os.rmdir(made)

    def serve(self, host: socket.socket) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the kernel
        while True:
            request, given, _, _ = socket.recv_fds(host, REQUEST_BYTES, _MOST_SOCKETS)
            if not request:
                return
            sockets = [socket.socket(fileno=number) for number in given]
            if os.fork() == 0:
                host.close()
                self._keep(json.loads(request), sockets)
            for given_away in sockets:
                given_away.close()

    def _keep(self, request: dict[str, Any], sockets: list[socket.socket]) -> NoReturn:
        """The keeper's whole life."""
        *held, life = sockets
        try:
            limits, role = walls.Limits(**request["limits"]), ROLES[request["role"]]
            report: dict[str, Any] = self._watch(limits, role, held, life)
        except OSError as error:
            report = {"error": str(error)}
        with contextlib.suppress(OSError):
            life.sendall(json.dumps(report).encode())
        os._exit(0)

    def _watch(
        self,
        limits: walls.Limits,
        role: Callable[[list[socket.socket]], None],
        held: list[socket.socket],
        life: socket.socket,
    ) -> dict[str, Any]:
        """Start the process, wait for its end or the host's, leave nothing of it behind."""
        user = walls.nobodys_id(os.getpid()) if self._several_users else 0
        if self._namespaces:
            walls.unshare(_BOX)
        else:
            walls.adopt_orphans()
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken)
        failed, failure = os.pipe()
        process = os.fork()
        if process == 0:
            self._live(limits, user, role, held, failure)
        os.close(failure)
        for one in held:
            one.close()
        select.select([wake, life.fileno()], [], [])
        os.kill(process, signal.SIGKILL)
        _, _, used = os.wait4(process, 0)
        if not self._namespaces:
            walls.kill_orphans()
        why = os.read(failed, 1000)
        if why:
            raise OSError(why.decode(errors="replace"))
        return {"cpu_s": used.ru_utime + used.ru_stime}

    def _live(
        self,
        limits: walls.Limits,
        user: int,
        role: Callable[[list[socket.socket]], None],
        held: list[socket.socket],
        failure: int,
    ) -> NoReturn:
        """The process in the box. Whatever goes wrong before its role begins is told the keeper."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            if self._namespaces:
                walls.fresh_working_folder(user, limits.file_bytes)
            walls.give_up(
                limits,
                user,
                files=self._landlock and not self._namespaces,
                calls=self._seccomp,
                writable=self._namespaces,
            )
            walls.close_all_but([0, 1, 2, *(one.fileno() for one in held)], spared=failure)
        except BaseException as error:  # noqa: BLE001 nothing may run without its walls
            os.write(failure, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        try:
            os.close(failure)
            role(held)
        finally:
            os._exit(0)
