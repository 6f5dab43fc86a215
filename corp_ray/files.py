"""Files on the local disk: written beside their place, flushed, renamed into it.

`LocalFiles` is the local half of storage.py. Standard library only.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    # Two machines, or containers, may have equal process numbers.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    with disk_errors(str(path)):
        try:
            write(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class LocalFiles:
    """What a `Storage` asks of a file system, on the local disk. Paths are absolute.

    Errors: FileNotFoundError when reading what is absent; DiskFullError and RewardTableError in
    writing.
    """

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        def write(temporary: Path) -> None:
            temporary.write_bytes(data)

        write_atomic(Path(path), write)

    def append(self, path: str, line: bytes) -> None:
        """Append a line, on a line of its own even after a write that was cut short."""
        with disk_errors(path), Path(path).open("a+b") as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(line + b"\n")

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def entries(self, path: str) -> list[tuple[str, bool]]:
        """Name of everything directly in a folder, and whether it is a file."""
        try:
            return [(entry.name, entry.is_file()) for entry in os.scandir(path)]
        except FileNotFoundError:
            return []

    def make(self, path: str) -> None:
        with disk_errors(path):
            Path(path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        with disk_errors(path):
            Path(path).unlink(missing_ok=True)

    def remove_tree(self, path: str) -> None:
        with disk_errors(path):
            shutil.rmtree(path, ignore_errors=not Path(path).exists())

    def rename(self, old: str, new: str) -> None:
        with disk_errors(new):
            os.replace(old, new)

    def put(self, source: Path, path: str) -> None:
        """Copy a file to its place, whole or not at all."""
        write_atomic(Path(path), lambda temporary: _copy(source, temporary))

    def get(self, path: str, target: Path) -> None:
        _copy(Path(path), target)

    def why_not_writable(self, path: str) -> str:
        """Where and why a folder could not be made or written, or ""; writes nothing."""
        existing = Path(path)
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            return f"{existing} (Not a directory)"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"{existing} (Permission denied)"
        return ""


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
