"""SIGTERM as a request: finish what runs, start nothing new, leave a run that can be resumed."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from corp_ray.errors import StoppedError


class StopRequest:
    """Whether the driver has been asked to stop, and until when running work may take."""

    def __init__(self, drain_s: float):
        self.drain_s = drain_s
        self._since: float | None = None

    def listen(self) -> None:
        """Take SIGTERM over from whoever has it; after `ray.init`, which sets a handler too."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def request(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    @property
    def requested(self) -> bool:
        return self._since is not None

    @property
    def overdue(self) -> bool:
        """Whether the time that running work was given is over."""
        return self._since is not None and time.monotonic() - self._since > self.drain_s

    def check(self) -> None:
        """StoppedError once a stop has been asked for; call before starting something."""
        if self.requested:
            raise StoppedError("stopped by SIGTERM; the same command goes on from what is on disk")
