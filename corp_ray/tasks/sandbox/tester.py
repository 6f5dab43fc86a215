"""The tests' side: runs trusted tests with stand-ins for what the program defines.

Calls go to the program's process and come back as plain data, so every comparison is made here,
between objects that were built here. An object that is no plain data is a `Foreign`: it can be
handed back to the program, called, and asked for attributes, length, truth and items; it equals
nothing.
"""

from __future__ import annotations

import builtins
import contextlib
import random
import socket
from typing import Any

from corp_ray.tasks.sandbox import values

PASSED, FAILED, UNSUPPORTED = "passed", "failed", "unsupported"


class Stop(BaseException):
    """Ends the tests whatever they catch; `status` is FAILED or UNSUPPORTED."""

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class ProgramError(Exception):
    """The program raised something that is no built-in exception."""


class _Program:
    """The program's process. A request that it does not answer ends the tests for good."""

    def __init__(self, channel: socket.socket):
        self._channel = channel
        self.stopped: Stop | None = None
        self.raised: list[Exception] = []

    def ask(self, *request: Any) -> list[Any]:
        """What follows "v" in the reply. Errors: what the program raised, Stop."""
        try:
            values.send(self._channel, request)
            reply = values.receive(self._channel)
        except (EOFError, OSError):
            raise self.stop(FAILED, "the program ended") from None
        except (values.Malformed, MemoryError) as error:
            raise self.stop(FAILED, f"the program's answer: {error}") from None
        match reply:
            case ["v", *parts]:
                return parts
            case ["e", str(name), str(message)]:
                self.raised.append(_exception(name, message))
                raise self.raised[-1]
        raise self.stop(FAILED, "the program's answer: no reply")

    def stop(self, status: str, reason: str) -> Stop:
        self.stopped = self.stopped or Stop(status, reason)
        return self.stopped

    def value(self, message: Any) -> Any:
        try:
            return values.decode(message, lambda number, name: Foreign(self, number, name))
        except (values.Malformed, MemoryError) as error:
            raise self.stop(FAILED, f"the program's answer: {error}") from None

    def message(self, value: Any) -> Any:
        if isinstance(value, Foreign):
            return object.__getattribute__(value, "_message")
        return values.encode(value, self._refuse)

    def _refuse(self, thing: Any) -> Any:
        if isinstance(thing, Foreign):
            return object.__getattribute__(thing, "_message")
        raise self.stop(UNSUPPORTED, f"a test hands over a {type(thing).__name__}")


class Foreign:
    """An object of the program's."""

    def __init__(self, program: _Program, number: int, name: str):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_message", ["h", number, name])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        program = object.__getattribute__(self, "_program")
        sent = program.message(list(args))
        answer = program.ask("call", program.message(self), sent, program.message(kwargs))
        if len(answer) != 2:
            raise program.stop(FAILED, "the program's answer: no arguments")
        result, after = answer
        if after != sent:
            _take_over(args, program.value(after))
        return program.value(result)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        program = object.__getattribute__(self, "_program")
        return program.value(program.ask("attribute", program.message(self), name)[0])

    def __setattr__(self, name: str, value: Any) -> None:
        program = object.__getattribute__(self, "_program")
        program.ask("set", program.message(self), name, program.message(value))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Foreign):
            program = object.__getattribute__(self, "_program")
            raise program.stop(UNSUPPORTED, "a test compares two of the program's objects")
        return False

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return _applied(self, "len")

    def __bool__(self) -> bool:
        return _applied(self, "bool") is True

    def __iter__(self) -> Any:
        return iter(_applied(self, "iter"))


def _applied(thing: Foreign, name: str) -> Any:
    program = object.__getattribute__(thing, "_program")
    return program.value(program.ask("apply", name, program.message(thing))[0])


def _take_over(arguments: tuple[Any, ...], after: Any) -> None:
    """What the program did to the lists, dictionaries and sets it was handed."""
    if not isinstance(after, list) or len(after) != len(arguments):
        return
    for mine, theirs in zip(arguments, after, strict=True):
        if type(mine) is not type(theirs):
            continue
        if isinstance(mine, list | bytearray):
            mine[:] = theirs
        elif isinstance(mine, dict | set):
            mine.clear()
            mine.update(theirs)


def _exception(name: str, message: str) -> Exception:
    kind = vars(builtins).get(name)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # the few that take more than a message
            return kind(message)
    return ProgramError(f"{name}: {message}")


def main(sockets: list[socket.socket]) -> None:
    """Take one set of tests from the host, run it against the program, answer with the verdict."""
    host, channel = sockets
    nonce, source, setup, tests, names = values.receive(host)
    status, reason = _judge(_Program(channel), source, setup, tests, names)
    values.send(host, [nonce, status, reason[:300]])


def _judge(
    program: _Program, source: str, setup: str, tests: list[str], names: list[str]
) -> tuple[str, str]:
    random.seed(0)
    where = "setup"
    try:
        codes = [
            compile(setup, "<setup>", "exec"),
            *(compile(test, "<test>", "exec") for test in tests),
        ]
    except (SyntaxError, ValueError) as error:
        return UNSUPPORTED, f"a test is not Python: {error}"
    try:
        where = "program"
        program.ask("run", source)
        namespace: dict[str, Any] = {"__name__": "tests"}
        for name in names:
            try:
                namespace[name] = program.value(program.ask("name", name)[0])
            except AttributeError:
                return FAILED, f"the program defines no {name}"
        for number, code in enumerate(codes):
            where = f"test {number}" if number else "setup"
            exec(code, namespace)
            if program.stopped:
                raise program.stopped
    except Stop as stop:
        return stop.status, stop.reason
    except BaseException as error:  # noqa: BLE001 whatever a test raises, it did not pass
        theirs = isinstance(error, ImportError) and error not in program.raised
        return UNSUPPORTED if theirs else FAILED, f"{where}: {type(error).__name__}: {error}"
    return PASSED, ""
