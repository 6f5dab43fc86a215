"""What a program in the sandbox can reach on this machine, found out by a program that tries."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from corp_ray.tasks.sandbox import LAYERS, ProgramTests, Sandbox

_PROBE = """
import os, socket

def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True

def reads(path):
    try:
        return bool(open(path, "rb").read(1))
    except OSError:
        return False

def writes(path):
    try:
        open(path, "wb").close()
    except OSError:
        return False
    return True

def signals(process):
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True

def user():
    return os.getuid()

def starts_processes():
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        return False
    return True
"""


def reached(sandbox: Sandbox) -> tuple[str, ...]:
    """What is open: "network", "reading files", "writing files", "other processes", "new processes".

    Errors: SandboxError.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        os.chmod(folder, 0o777)
        read = Path(folder, "read")
        read.write_text("a file that anybody may read")
        tries = {
            "network": f"connects({listener.getsockname()[1]})",
            "reading files": f"reads({str(read)!r})",
            "writing files": f"writes({str(Path(folder, 'write'))!r})",
            "other processes": f"signals({os.getpid()})",
            "new processes": "starts_processes()",
        }
        return tuple(
            what
            for what, call in tries.items()
            if not sandbox.run(
                _PROBE, ProgramTests((f"assert {call} is False",), (call.partition("(")[0],))
            ).passed
        )


def active(sandbox: Sandbox) -> tuple[str, ...]:
    """The layers in force. Landlock only stands in for namespaces; identity is for hosts that run
    as root. Errors: SandboxError."""
    changed = ProgramTests((f"assert user() != {os.geteuid()}",), ("user",))
    idle = set(sandbox.without)
    if os.geteuid() != 0 or not sandbox.run(_PROBE, changed).passed:
        idle.add("identity")
    if "namespaces" not in sandbox.without:
        idle.add("landlock")
    return (*(layer for layer in LAYERS if layer not in idle | sandbox.without), "limits")


def described(sandbox: Sandbox) -> tuple[str, tuple[str, ...]]:
    """One line for people, and what is open."""
    opened = reached(sandbox)
    words = ", ".join(opened) if opened else "nothing outside"
    return f"sandbox: {', '.join(active(sandbox))}; a program reaches {words}", opened
