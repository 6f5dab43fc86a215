"""A lease on a run directory: one living driver at a time.

The holder rewrites a small file every few seconds with a counter one higher. Whoever wants the
directory watches the counter with its own clock: while it moves the holder lives, so nothing
depends on two machines' clocks agreeing. See docs/method.md, "Lease".
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corp_ray.errors import CheckpointError, ConfigError, CorpError, LeaseError
from corp_ray.storage import Storage

log = logging.getLogger(__name__)

BEAT_S = 3.0
STALE_S = 15.0  # without a beat for so long, a holder on another machine counts as gone
SIGHT_S = 3 * BEAT_S  # without a beat for so long, an onlooker calls it silent

ALIVE, GONE, SILENT, NONE = "alive", "gone", "silent", "none"
REMOTE_STALE_S = 60.0  # the same on a storage whose single request may be tried for half a minute
FILE = "lease.json"


def _machine() -> str:
    """Where a process number means the same process: this boot, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str:
    """When a process of this machine started, as the kernel counts; "" when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


@dataclass(frozen=True)
class Sighting:
    """A lease as an onlooker finds it: alive, gone (a process of this machine that is no more),
    silent (elsewhere, no beat seen) or none; and where its holder is, or was."""

    state: str
    host: str = ""
    pid: int = 0


def _content(text: str) -> dict[str, Any] | None:
    """What a lease file says, None when it is none."""
    try:
        content = json.loads(text)
        return content if {"holder", "host", "pid", "beats"} <= content.keys() else None
    except (ValueError, AttributeError):
        return None


class Lease:
    """`acquire` takes it, `check` says whether it is still held, `release` gives it back."""

    def __init__(
        self, folder: Storage, file: str = FILE, *, beat_s: float = BEAT_S, stale_s: float = 0.0
    ):
        default_s = REMOTE_STALE_S if folder.local is None else STALE_S
        self._file = file
        self._folder, self._beat_s, self._stale_s = folder, beat_s, stale_s or default_s
        self._holder = uuid.uuid4().hex
        self._beats = 0
        self._lost = ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def check_free(self) -> None:
        """ConfigError while another driver holds the lease; waits out one that may be gone."""
        seen = self._read_twice()
        if seen is None or seen["holder"] == self._holder or self._is_dead(seen):
            return
        deadline = time.monotonic() + self._stale_s
        log.info("%s: waiting to see whether its holder lives", self._folder / self._file)
        while time.monotonic() < deadline:
            time.sleep(self._beat_s / 4)
            found = self._read_twice()
            if found is None or self._is_dead(found):
                return
            if found["holder"] != seen["holder"] or found["beats"] != seen["beats"]:
                raise ConfigError(
                    f"{self._folder}: another driver is at work there "
                    f"({found['host']}, process {found['pid']}); wait for it, or use another run.id"
                )

    def acquire(self) -> None:
        """Take the lease and keep it alive until `release`.

        Errors: ConfigError when another driver holds it, or took it in the same moment.
        """
        self.check_free()
        self._folder.make()
        self._write()
        time.sleep(self._beat_s / (10 if self._folder.local is not None else 3))
        found = self._read()
        if found is None or found["holder"] != self._holder:
            raise ConfigError(f"{self._folder}: another driver has just started there")
        self._thread = threading.Thread(target=self._keep, name="corp-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """LeaseError when somebody else has taken the lease; call before deciding anything."""
        if self._lost:
            raise LeaseError(self._lost)

    def release(self) -> None:
        """Stop beating and remove the file, if it is still ours."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            found = self._read()
            if found is not None and found["holder"] == self._holder:
                self._folder.remove(self._file)
        except CorpError as error:  # whoever comes next sees that it stands still
            log.warning("%s: not given back (%s)", self._folder / self._file, error)

    def _keep(self) -> None:
        while not self._ended.wait(self._beat_s):
            if not self._beat():
                return

    def _beat(self) -> bool:
        """Renew the lease; False when another driver has it."""
        try:
            found = self._read()
            if found is not None and found["holder"] != self._holder:
                self._lost = (
                    f"{self._folder}: taken over by another driver ({found['host']}, process "
                    f"{found['pid']}); this one stops, what is on disk stays valid"
                )
                return False
            self._write()
        except Exception as error:  # noqa: BLE001 (a full disk must not end the thread)
            log.warning("%s: not renewed (%s)", self._folder / self._file, error)
        return True

    def _write(self) -> None:
        self._beats += 1
        content = {
            "holder": self._holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "born": _born(os.getpid()),
            "beats": self._beats,
        }
        self._folder.write_json(self._file, content)

    def _read(self) -> dict[str, Any] | None:
        try:
            return _content(self._folder.read_text(self._file))
        except (OSError, ValueError, CheckpointError):
            return None

    def _read_twice(self) -> dict[str, Any] | None:
        """The same; a storage that replaces a file by deleting and moving has none for a moment."""
        found = self._read()
        if found is None and self._folder.local is None:
            time.sleep(self._beat_s / 4)
            found = self._read()
        return found

    @staticmethod
    def _is_dead(content: dict[str, Any]) -> bool:
        """Whether the holder was a process of this machine that is gone."""
        if content.get("machine") != _machine():
            return False
        return _born(int(content["pid"])) != content.get("born")


def sight(read: Callable[[], str | None], wait_s: float = SIGHT_S) -> Sighting:
    """Whether somebody holds the lease whose file's text, if there is one, `read` returns.

    Watched with this machine's clock for at most `wait_s`. Takes and writes nothing.
    """
    seen = _content(read() or "")
    if seen is None:
        return Sighting(NONE)
    if seen.get("machine") == _machine():
        return Sighting(GONE if Lease._is_dead(seen) else ALIVE, seen["host"], int(seen["pid"]))
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        time.sleep(min(BEAT_S / 4, wait_s))
        found = _content(read() or "")
        if found is None:
            return Sighting(NONE)
        if (found["holder"], found["beats"]) != (seen["holder"], seen["beats"]):
            return Sighting(ALIVE, found["host"], int(found["pid"]))
    return Sighting(SILENT, seen["host"], int(seen["pid"]))
