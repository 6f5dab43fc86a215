"""An actor that a pool takes for an engine: it squares numbers, or fails as it is told."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray

from corp_ray.records import Ready


class Toy:
    """An engine that answers an index with its square, or fails in the way it is told."""

    def __init__(self, description: str):
        self._description = description

    def ready(self) -> Ready:
        if self._description == "slow":
            time.sleep(600)
        if self._description == "late":
            time.sleep(15)
        if self._description == "broken":
            raise ZeroDivisionError("by zero")
        return Ready(ray.get_runtime_context().get_node_id(), self._description)

    def score(self, index: int, failing: dict[int, Exception]) -> int:
        if index in failing:
            raise failing[index]
        return index**2

    def sick(self, index: int, mark: str, error: Exception) -> int:
        """Fails at everything in the first process that is asked, whose number `mark` keeps."""
        try:
            with Path(mark).open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            pass
        if Path(mark).read_text() == str(os.getpid()):
            raise error
        return index**2

    def sleep(self, index: int, seconds: float) -> int:
        time.sleep(seconds)
        return index

    def lease(self, other: Any, index: int, seconds: float) -> int:
        """The answer of another engine, as a gate gets it."""
        return ray.get(other.sleep.remote(index, seconds))
