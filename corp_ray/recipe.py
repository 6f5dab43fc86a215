"""recipe.json: a committed model as seeds and amplitudes on a base; and its model card.

A recipe is a few KB. With the base weights it rebuilds the committed folder byte for byte. Each
commit is one step, applied to the weights the step before left. See docs/method.md, "Recipe".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corp_ray.direction import Direction
from corp_ray.errors import CheckpointError
from corp_ray.noise import NOISE_VERSION
from corp_ray.parameters import read_json
from corp_ray.records import Verdict
from corp_ray.storage import Storage

FORMAT = "corp-recipe"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Step:
    """One committed update: its direction, the round it came from, the gate's verdict."""

    direction: Direction
    round: int
    verdict: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Base, noise version, dtype, perturbed tensor names and the committed steps in order."""

    base: str
    base_digest: str
    dtype: str
    perturbed: tuple[str, ...]
    task: str
    steps: tuple[Step, ...]

    def extended(self, direction: Direction, round_number: int, verdict: Verdict) -> Recipe:
        step = Step(direction, round_number, asdict(verdict))
        return Recipe(
            self.base, self.base_digest, self.dtype, self.perturbed, self.task, (*self.steps, step)
        )

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "noise_version": NOISE_VERSION,
            "base": self.base,
            "base_digest": self.base_digest,
            "dtype": self.dtype,
            "task": self.task,
            "steps": [
                {
                    "round": step.round,
                    "verdict": step.verdict,
                    "direction": {str(seed): a for seed, a in step.direction.terms},
                }
                for step in self.steps
            ],
            "perturbed": list(self.perturbed),
        }
        return json.dumps(content, indent=1) + "\n"

    def model_card(self) -> str:
        """README.md of the committed folder; a function of the recipe alone."""
        rows = "\n".join(
            f"| {i} | {s.round} | {len(s.direction)} | {s.direction.norm:.3g} "
            f"| {100 * s.verdict['mean']:+.1f} | {100 * s.verdict['lower']:+.1f} "
            f"| {s.verdict['fixes']} / {s.verdict['regressions']} of {s.verdict['examples']} "
            f"| {s.verdict['test']}, p = {s.verdict['p_value']:.2g}, alpha = {s.verdict['alpha']:.3g} |"
            for i, s in enumerate(self.steps, 1)
        )
        return f"""---
tags: [corp, gradient-free]
---
# {self.base}, consolidated

`{self.base}` after {len(self.steps)} update(s) by CoRP (Consolidating Rewarded Perturbations): weight
perturbations known by their seeds, scored on a task with a verifiable reward and folded into these
weights. No gradient was computed; inference costs one forward pass, as for the base.

- Base: `{self.base}`, weights digest `{self.base_digest}`
- Task: {self.task}
- dtype: {self.dtype}; {len(self.perturbed)} tensors perturbed; noise version {NOISE_VERSION}

Each update passed a paired test on held-out questions (points of reward, candidate minus the
weights before it):

| update | round | seeds | norm | gain | lower bound | fixes / regressions | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

`recipe.json` rebuilds this folder from the base, byte for byte.
"""


def load(path: Path) -> Recipe:
    """Read a recipe file. Errors: CheckpointError when it is not one that this version can apply."""
    return _parsed(read_json(path), str(path))


def read(folder: Storage, name: str = "recipe.json") -> Recipe:
    """The recipe in a committed folder, on any file system. Errors: as `load`; StorageError."""
    try:
        return _parsed(folder.read_json(name), str(folder / name))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder / name}: no such file") from error


def _parsed(content: Mapping[str, Any], path: str) -> Recipe:
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: not a {FORMAT} of version {FORMAT_VERSION}")
    if content.get("noise_version") != NOISE_VERSION:
        raise CheckpointError(
            f"{path}: noise version {content.get('noise_version')}, this program makes {NOISE_VERSION}"
        )
    try:
        steps = tuple(
            Step(
                Direction((int(seed), a) for seed, a in step["direction"].items()),
                step["round"],
                step["verdict"],
            )
            for step in content["steps"]
        )
        return Recipe(
            content["base"],
            content["base_digest"],
            content["dtype"],
            tuple(content["perturbed"]),
            content["task"],
            steps,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: incomplete recipe ({error!r})") from error
