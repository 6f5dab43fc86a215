"""A helper process that answers one request at a time and is killed when it is late or gone wild.

For verifiers that may hang or crash: foreign code, or mathematics on whatever a model wrote. The
child is a module run by the same Python (`python -m MODULE`) that calls `serve`; it has a process
group of its own, so that what it started ends with it. Requests are pickled by the parent and read
by the child; replies are JSON, so nothing that a child says is ever executed.

Covers: hangs (also in C code), crashes, output on the child's stdout, an orphan after its parent's
death. Does not cover: hostile code. That is the sandbox's work.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")
_ORPHAN_S = 5  # how much later than its limit a child whose parent is gone ends itself
_START_S = 120.0


class ChildError(Exception):
    """A child did not answer: it was late and was killed, or it died."""


class Child:
    """One child, started by the first request and again by the one after it was lost.

    `setup` is handed to the child's `serve` before any request. Not for several threads at once.
    """

    def __init__(self, module: str, setup: Any = None, *, start_s: float = _START_S):
        self._module, self._setup, self._start_s = module, setup, start_s
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def start(self) -> None:
        """Start the child where none runs. Errors: ChildError when it does not get ready."""
        if self._process is not None:
            return
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.curdir for p in sys.path)},
            start_new_session=True,
        )
        self._send((self._setup, self._start_s))
        self._receive(self._start_s)

    def ask(self, request: Any, limit_s: float) -> Any:
        """The child's reply (what JSON can say). Errors: ChildError; the next request starts anew."""
        return next(self.stream(request, 1, limit_s))

    def stream(self, request: Any, count: int, limit_s: float) -> Iterator[Any]:
        """`count` replies to one request, each within `limit_s` seconds of the one before."""
        self.start()
        self._send((request, limit_s))
        left = count
        try:
            while left:
                reply = self._receive(limit_s)
                left -= 1
                yield reply
        finally:
            if left:
                self.close()  # what else it says would be taken for an answer to the next request

    def close(self) -> None:
        """Kill the child and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _send(self, message: Any) -> None:
        content = pickle.dumps(message)
        pipe = _pipe(self._process, "stdin")
        try:
            pipe.write(_LENGTH.pack(len(content)) + content)
            pipe.flush()
        except OSError as error:
            raise self._lost(f"does not listen ({error})") from error

    def _receive(self, limit_s: float) -> Any:
        pipe = _pipe(self._process, "stdout")
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(deadline - time.monotonic(), 0.0))[0]:
                raise self._lost(f"no answer within {limit_s:g} s")
            more = os.read(pipe.fileno(), 1 << 20)
            if not more:
                raise self._lost("died")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _lost(self, reason: str) -> ChildError:
        self.close()
        return ChildError(f"{self._module}: {reason}")


def _pipe(process: subprocess.Popen[bytes] | None, name: str) -> BinaryIO:
    pipe = getattr(process, name, None)
    if pipe is None:
        raise ChildError("no child runs")
    return pipe


def serve(setup: Callable[[Any], Callable[[Any], Iterator[Any]]]) -> None:
    """The child's side: `setup(what the parent gave)` makes the function that answers requests,
    with as many replies as the parent expects. Whatever is printed goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(KeyboardInterrupt):
        answer: Callable[[Any], Iterator[Any]] | None = None
        for message, limit_s in _messages(sys.stdin.buffer):
            _limit(limit_s)
            if answer is None:
                answer = setup(message)
                replies.write(b"null\n")
                replies.flush()
            else:
                for reply in answer(message):
                    replies.write(json.dumps(reply).encode() + b"\n")
                    replies.flush()
                    _limit(limit_s)
            signal.alarm(0)


def _messages(pipe: BinaryIO) -> Iterator[Any]:
    while head := pipe.read(_LENGTH.size):
        yield pickle.loads(pipe.read(_LENGTH.unpack(head)[0]))


def _limit(limit_s: float) -> None:
    # The parent kills a late child; this is for one whose parent is gone. The default action of
    # the signal ends the process in C code too.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(limit_s) + _ORPHAN_S)
