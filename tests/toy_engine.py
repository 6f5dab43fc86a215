"""An actor that a pool takes for an engine: it squares numbers, or fails as it is told."""

from __future__ import annotations

import time
from typing import Any

import ray

from corp_ray.records import Ready


class Toy:
    """An engine that answers an index with its square, or fails in the way it is told."""

    def __init__(self, description: str):
        self._description = description

    def ready(self) -> Ready:
        return Ready(ray.get_runtime_context().get_node_id(), self._description)

    def score(self, index: int, failing: dict[int, Exception]) -> int:
        if index in failing:
            raise failing[index]
        return index**2

    def sleep(self, index: int, seconds: float) -> int:
        time.sleep(seconds)
        return index

    def lease(self, other: Any, index: int, seconds: float) -> int:
        """The answer of another engine, as a gate gets it."""
        return ray.get(other.sleep.remote(index, seconds))
