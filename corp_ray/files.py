"""Atomic files: written beside their place, flushed, renamed into it. Standard library only."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corp_ray.errors import CorpError, RewardTableError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an operating system error while writing `what` into one line that says why."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"disk full while writing {what}; make room and run the same command to go on"
            ) from error
        raise RewardTableError(f"cannot write {what}: {error.strerror or error}") from error


class DiskFullError(CorpError):
    """No room to write; what was on disk before is whole and a resumed run goes on from it."""


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file in `path`'s folder, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(str(path)):
        try:
            write(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")

    write_atomic(path, write)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def append_line(path: Path, content: Any) -> None:
    """Append one JSON line, on a line of its own even after a write that was cut short."""
    with disk_errors(str(path)), path.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(content).encode() + b"\n")
