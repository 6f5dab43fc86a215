"""Four disjoint splits of a task's examples: support, validation, gate, test.

Examples with equal prompts count once; a seeded shuffle deals the rest out in that order. See
docs/method.md, "Rewards and splits".
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from corp_ray.errors import TaskError
from corp_ray.records import Example
from corp_ray.tasks import Task

NAMES = ("support", "validation", "gate", "test")


@dataclass(frozen=True)
class Split:
    """Examples of one split and the SHA-256 (hex) of their prompts and answers, in order."""

    name: str
    examples: tuple[Example, ...]
    digest: str


def _digest(task: Task, examples: tuple[Example, ...]) -> str:
    content = [[task.prompt(example), example.answer] for example in examples]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def make_splits(task: Task, sizes: Mapping[str, int], seed: int) -> dict[str, Split]:
    """Deal the task's distinct examples into splits of `sizes`.

    Each split's place in the shuffled order depends on the sizes before it. Errors: TaskError
    when the distinct examples are fewer than the sizes ask for.
    """
    drawn = task.examples()
    # Digests, not prompts: published sets have half a million rows, and every actor deals them.
    seen: set[bytes] = set()
    pool = []
    for example in drawn:
        prompt = json.dumps(task.prompt(example))
        key = hashlib.sha256(prompt.encode()).digest()
        if key not in seen:
            seen.add(key)
            pool.append(example)
    needed = sum(sizes[name] for name in NAMES)
    if needed > len(pool):
        asked = " + ".join(f"{name} {sizes[name]}" for name in NAMES)
        raise TaskError(
            f"splits: {asked} = {needed} examples, but the task has {len(pool)} distinct ones "
            f"(of {len(drawn)} drawn)"
        )
    random.Random(f"corp_ray splits 1 {seed}").shuffle(pool)
    splits, start = {}, 0
    for name in NAMES:
        examples = tuple(pool[start : start + sizes[name]])
        splits[name] = Split(name, examples, _digest(task, examples))
        start += sizes[name]
    return splits
