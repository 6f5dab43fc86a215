"""What a process needs to build the task and its splits by itself, and what must come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import Example
from corp_ray.tasks import hub, kinds, published
from corp_ray.tasks.python_source import read_source
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
    limit_s: float = 60.0

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


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `make_task` that mean the same task in every process of a run.

    A path becomes absolute, a Python file comes with its text, a Hugging Face dataset with its
    commit. Errors: TaskError for a file that cannot be read, a dataset that is not there.
    """
    found = dict(settings)
    if found.get("path"):
        found["path"] = str(Path(found["path"]).expanduser().resolve())
    if found["kind"] == "python_file":
        found["source"] = read_source(found["path"])
    upstream = published(found["kind"]) if found["kind"] in kinds() else None
    if upstream is not None and not found["path"]:
        found["dataset"] = hub.pinned(found["dataset"] or upstream.dataset)
    return found
