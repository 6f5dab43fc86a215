"""A sandbox for Python programs that a model wrote, and a verdict that they cannot forge.

`Sandbox.run` starts two boxed processes. One runs the program (guest.py); the other holds the tests
and stand-ins for what the program defines (tester.py). Calls go across a socket as plain data, so
every comparison is made between objects that the tester built, and the program holds neither tests
nor nonce nor the channel of the verdict: there is nothing to find, patch or write to.

Around each process: a session of its own, no environment, no output (what is printed goes to
/dev/null), and
- limits: CPU and wall time, memory, processes, open files, file size, 8 MiB an answer;
- namespaces: an empty root with Python's library read-only, four devices and a folder in memory of
  16 MiB; no network, no process but its own, whatever it forks dies with it; no System V objects;
- identity: where the host is root, a user id that nobody has; no capabilities, no way to gain any;
- seccomp (x86-64, arm64): no sockets, processes, programs, namespaces, mounts, tracing, signals out;
- landlock, where there are no namespaces: only Python's library can be read, nothing written.
Where a machine lacks a layer, the others hold; probe.py finds out by trying what is open.

Not covered: holes in the kernel or in CPython's JSON reader; the clock, so that a program can behave
by the hour; file names and sizes where neither namespaces nor landlock hide them; kernel memory that
no limit counts; programs that know the tests by heart, since the prompt shows them; other systems
than Linux. Not supported: packages beyond the standard library; tests that hand functions of their
own to the program, or compare two objects of the program's classes (UnsupportedTests).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corp_ray.tasks.sandbox import values
from corp_ray.tasks.sandbox.tester import FAILED, PASSED, UNSUPPORTED
from corp_ray.tasks.sandbox.walls import Limits

__all__ = [
    "LAYERS",
    "Limits",
    "ProgramTests",
    "Sandbox",
    "SandboxError",
    "UnsupportedTests",
    "Verdict",
]

_ROOT = Path(__file__).resolve().parents[3]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from corp_ray.tasks.sandbox.server import main\n"
    "sys.path.remove(sys.argv[1])\n"
    "main(int(sys.argv[2]), sys.argv[3].split())"
)
_START_S = 60.0
_LONGEST_PROGRAM = 500_000  # characters; a frame holds it however it is escaped
_END_S = 30.0
_TESTER_EXTRA_S = 5
_CLOCK_S = 0.5  # how far apart the kernel and its accounting may be


LAYERS = ("namespaces", "identity", "landlock", "seccomp")
# What a machine may lack, from the strongest walls to the weakest. Only behind landlock may a
# program keep its user: one that could not read Python's library otherwise.
_WEAKER: tuple[frozenset[str], ...] = (
    frozenset(),
    frozenset({"namespaces"}),
    frozenset({"namespaces", "identity"}),
    frozenset({"namespaces", "landlock"}),
    frozenset({"namespaces", "landlock", "seccomp"}),
)


class SandboxError(Exception):
    """The sandbox, not the program, failed: nothing is known of the program."""


class UnsupportedTests(SandboxError):
    """These tests ask for something that cannot be asked across two processes."""


@dataclass(frozen=True)
class ProgramTests:
    """Trusted tests: `setup` runs once, then each of `statements`; all must run through.

    `names` are those that the program defines, `setup` and `statements` use.
    """

    statements: tuple[str, ...]
    names: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True)
class Verdict:
    passed: bool
    reason: str = ""


class _Server:
    """The sandbox's process beside this one."""

    def __init__(self, without: Collection[str]):
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-s", "-S", "-P", "-B", "-c", _START),
                    *(str(_ROOT), str(theirs.fileno()), " ".join(sorted(without))),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"PYTHONHASHSEED": "0"},  # sets come in the same order in every program
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        self.control.settimeout(_START_S)
        try:
            word, _, self._folder = self.control.recv(1 << 12).decode().partition(" ")
        except OSError:
            word, self._folder = "", ""
        if word != "ready":
            self.process.kill()
            _, said = self.process.communicate()
            self.close()
            raise SandboxError(
                said.decode(errors="replace").strip().rpartition("\n")[2] or "silent"
            )
        self._done_with_errors()

    def box(self, role: str, limits: Limits, sockets: Sequence[socket.socket]) -> socket.socket:
        """A process with these sockets; the life line to its keeper. The sockets are closed here."""
        mine, keeper = socket.socketpair()
        request = json.dumps({"role": role, "limits": dataclasses.asdict(limits)}).encode()
        given = [*sockets, keeper]
        try:
            socket.send_fds(self.control, [request], [one.fileno() for one in given])
        except OSError as error:
            mine.close()
            raise SandboxError(f"the sandbox is gone ({error})") from error
        finally:
            for one in given:
                one.close()
        return mine

    def close(self) -> None:
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._folder:
            with contextlib.suppress(OSError):  # the server removes it unless it was killed
                os.rmdir(self._folder)
        self._done_with_errors()

    def _done_with_errors(self) -> None:
        if self.process.stderr:
            self.process.stderr.close()


_TRIVIAL_PROGRAM = "import colorsys\ndef one(): return 1"  # a module that nothing has loaded yet
_TRIVIAL = ProgramTests(("assert one() == 1",), ("one",))


class Sandbox:
    """Runs programs one after another in the strongest walls that this machine allows.

    `without` leaves layers out ("namespaces", "landlock", "seccomp"), as on a machine that lacks
    them; `self.without` says, after the first run, which ones are left out. Not for several
    threads at once.
    """

    def __init__(self, limits: Limits | None = None, without: Iterable[str] = ()):
        self.limits = limits or Limits()
        self.without: frozenset[str] = frozenset(without)
        self._server: _Server | None = None
        self._tried = False

    def run(self, program: str, tests: ProgramTests) -> Verdict:
        """Whether `program` passes. Errors: SandboxError when that could not be found out."""
        if len(program) > _LONGEST_PROGRAM:
            return Verdict(False, f"longer than {_LONGEST_PROGRAM} characters")
        try:
            return self._run(self._started(), program, tests)
        except UnsupportedTests:
            raise
        except (SandboxError, OSError) as error:
            self.close()
            raise SandboxError(str(error)) from error

    def _started(self) -> _Server:
        """The server, on the first call behind the first walls that a trivial program gets through."""
        if self._server is None and self._tried:
            self._server = _Server(self.without)
        if self._server is not None:
            return self._server
        problems = []
        for weaker in _WEAKER:
            without = self.without | weaker
            try:
                self._server = _Server(without)
                if self._run(self._server, _TRIVIAL_PROGRAM, _TRIVIAL).passed:
                    self.without, self._tried = without, True
                    return self._server
                problems.append("a program cannot read the Python library")
            except (SandboxError, OSError) as error:
                problems.append(str(error))
            self.close()
        raise SandboxError(f"no sandbox starts here: {'; '.join(dict.fromkeys(problems))}")

    def _run(self, server: _Server, program: str, tests: ProgramTests) -> Verdict:
        tester_limits = dataclasses.replace(self.limits, cpu_s=self.limits.cpu_s + _TESTER_EXTRA_S)
        between = socket.socketpair()
        host, judge = socket.socketpair()
        nonce = secrets.token_hex(16)
        request = [nonce, program, tests.setup, list(tests.statements), list(tests.names)]
        with host, contextlib.ExitStack() as lines:
            tester = lines.enter_context(server.box("tester", tester_limits, [judge, between[0]]))
            guest = lines.enter_context(server.box("guest", self.limits, [between[1]]))
            host.settimeout(self.limits.wall_s)
            try:
                values.send(host, request)
                answer = values.receive(host)
            except TimeoutError:
                answer = [nonce, FAILED, f"not done after {self.limits.wall_s:g} s"]
            except (EOFError, OSError, values.Malformed):
                answer = None
            program_end, tests_end = _end(guest), _end(tester)
        match answer:
            case [str(given), str(status), str(reason)] if secrets.compare_digest(given, nonce):
                return self._verdict(status, reason, program_end["cpu_s"])
        if tests_end["cpu_s"] >= tester_limits.cpu_s - 1:
            return Verdict(False, "the tests ran out of time on what the program answered")
        raise SandboxError("the tests' process died")

    def _verdict(self, status: str, reason: str, cpu_s: float) -> Verdict:
        if status == UNSUPPORTED:
            raise UnsupportedTests(reason)
        if status == PASSED:
            return Verdict(True)
        late = cpu_s >= self.limits.cpu_s - _CLOCK_S
        return Verdict(False, f"{reason} (after {cpu_s:.1f} s of CPU time)" if late else reason)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _end(life: socket.socket) -> dict[str, Any]:
    """End a box, wait until nothing of it is left, and return how its process ended.

    Errors: SandboxError when the box could not be made or its keeper is gone, OSError.
    """
    with contextlib.suppress(OSError):  # the keeper may be through
        life.shutdown(socket.SHUT_WR)
    life.settimeout(_END_S)
    content = b""
    while more := life.recv(1 << 12):
        content += more
    report = json.loads(content) if content else {"error": "the keeper of a box died"}
    if "error" in report:
        raise SandboxError(report["error"])
    return report
