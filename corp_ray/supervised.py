"""One actor that is started again when it is lost, and what Ray's errors come down to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from corp_ray.errors import CorpError, EngineError, StoppedError
from corp_ray.stopping import StopRequest

log = logging.getLogger(__name__)

_TICK_S = 0.5  # between looks at a stop request
_READY_S = 30.0
_LINE = 200  # characters of a reason


class Supervised:
    """One actor that is started again when it is lost; its calls must bear being repeated."""

    def __init__(self, start: Callable[[], Any], stop: StopRequest, attempts: int = 3):
        self._start, self._stop, self._attempts = start, stop, attempts
        self.actor = start()

    def revive(self) -> None:
        if not is_alive(self.actor):
            log.warning("an actor was lost; starting another")
            self.actor = self._start()

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method. Errors: what the method raised; EngineError when it stays lost;
        StoppedError when a stop is asked for and the method takes longer than that allows."""
        reason = ""
        for _ in range(self._attempts):
            reference = getattr(self.actor, method).remote(*arguments)
            try:
                while not ray.wait([reference], timeout=_TICK_S)[0]:
                    if self._stop.overdue:
                        raise StoppedError(f"stopped by SIGTERM during {method}")
                return ray.get(reference)
            except RayTaskError as error:
                raise cause_of(error) from error
            except RayError as error:
                reason = last_line(error)
                log.warning("%s: %s", method, reason)
                self.revive()
        raise EngineError(f"{method}: its actor was lost {self._attempts} times ({reason})")

    def close(self) -> None:
        ray.kill(self.actor)


def is_alive(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=_READY_S)
        return True
    except GetTimeoutError:  # busy
        return True
    except RayError:
        return False


def cause_of(error: RayTaskError) -> BaseException:
    """The exception raised in the actor when it is one of ours, else an EngineError about it."""
    return error.cause if isinstance(error.cause, CorpError) else EngineError(last_line(error))


def last_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, CorpError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[-1] if lines else type(error).__name__
    # Ray goes on with what may have been the cause, at length.
    return line if len(line) <= _LINE else line[:_LINE].rpartition(" ")[0] + " ..."
