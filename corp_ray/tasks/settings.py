"""What a process needs to build the task and its splits by itself, and what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import Example
from corp_ray.tasks.splits import make_splits


@dataclass(frozen=True)
class TaskSettings:
    """What an actor needs to build the task and its splits by itself, and what must come out.

    `processes` (0: as many as suit the machine) and `limit_s` (seconds an answer): how graders work.
    """

    task: dict[str, Any]
    sizes: dict[str, int]
    seed: int
    version: str
    digests: dict[str, str]
    processes: int = 0
    limit_s: float = 30.0

    def examples(self, task: Any, names: Sequence[str]) -> dict[str, tuple[Example, ...]]:
        """The named splits. TaskError when this node's data or grader is not the driver's."""
        if task.version != self.version:
            raise TaskError(
                f"a node grades with {task.version!r}, the driver with {self.version!r}"
            )
        splits = make_splits(task, self.sizes, self.seed)
        for name in names:
            if splits[name].digest != self.digests[name]:
                raise TaskError(
                    f"a node's {name} split differs from the driver's: other data there"
                )
        return {name: splits[name].examples for name in names}
