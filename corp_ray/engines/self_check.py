"""What every engine must show before it scores: that weights take, and come back.

A known direction is applied to one kind of tensor after the other, to one block after the other,
then to all. Each must change what the model says after a token of its own; the tensors' digest must
be the one computed here from the folder alone, by the exact rule and as a step; and the center's
digest and answers must come back. See docs/method.md, "Engines".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from corp_ray import checkpoint, parameters
from corp_ray.direction import Direction
from corp_ray.engines import Engine, EngineSettings
from corp_ray.errors import EngineError
from corp_ray.records import Center
from corp_ray.tasks import Messages

_MARGIN = 4  # times what an engine that is asked twice differs by

# Large enough to be seen, small enough to stay finite; seeds of one and of two words.
KNOWN = Direction({5_230_498: 0.006, 2**40 + 7: -0.006, 2**62 + 3: 0.006})

Answers = list[dict[int, float]]


def unit(name: str) -> str:
    """The repeated block that a tensor belongs to: its name up to the first number, or nothing."""
    found = re.match(r".*?\.\d+\.", name)
    return found.group() if found else ""


def kinds(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Tensors by name without its numbers, each kind from the first block that has it."""
    found: dict[str, list[str]] = {}
    for name in names:
        members = found.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name), [])
        if not members or unit(members[0]) == unit(name):
            members.append(name)
    return {kind: tuple(members) for kind, members in found.items()}


def gap(a: Answers, b: Answers) -> float:
    """Largest difference of log-probability; a token that one lacks counts at its lowest."""
    widest = 0.0
    for one, other in zip(a, b, strict=True):
        low, lower = min(one.values()), min(other.values())
        for token in one.keys() | other.keys():
            widest = max(widest, abs(one.get(token, low) - other.get(token, lower)))
    return widest


def self_check(
    engine: Engine, center: Center, settings: EngineSettings, prompts: Sequence[Messages]
) -> None:
    """EngineError unless the loaded engine passes; it is left at the center."""
    specs = parameters.read_specs(Path(center.path))
    names = parameters.perturbed_names(specs, settings.include, settings.exclude)

    def answers(direction: Direction, only: Sequence[str] | None = None) -> Answers:
        engine.apply(direction, only)
        found = engine.next_token_logprobs(prompts, 1)
        answered = sum(1 for one in found if one)
        if answered != len(prompts):
            raise EngineError(f"self-check: {answered} answers to {len(prompts)} prompts")
        if not all(math.isfinite(value) for answer in found for value in answer.values()):
            raise EngineError("self-check: log-probabilities that are not finite numbers")
        return found

    base = answers(Direction())
    # 0 where the engine repeats itself to the bit.
    tolerance = _MARGIN * gap(base, answers(Direction()))
    parts = kinds(names) | {
        f"{block}*": tuple(name for name in names if unit(name) == block)
        for block in dict.fromkeys(map(unit, names))
    }
    for part, members in parts.items():
        if gap(base, answers(KNOWN, members)) <= tolerance:
            raise EngineError(
                f"self-check: {part} was perturbed and no answer changed; the engine does not use "
                "what it is given, or the model ignores these tensors (then: perturb.exclude)"
            )
    moved = answers(KNOWN)
    expected = checkpoint.perturbed_digest(
        Path(center.path), settings.dtype, names, KNOWN, threads=settings.threads
    )
    _compare("a known direction", engine.digest(), expected)
    if gap(base, moved) <= tolerance:
        raise EngineError("self-check: a known direction was applied and no answer changed")
    engine.hold(KNOWN)
    engine.apply_step(1.0)
    _compare("one step of a known direction", engine.digest(), expected)
    engine.release()
    if gap(base, answers(Direction())) > tolerance:
        raise EngineError("self-check: the center was restored, but its answers did not come back")
    _compare("the restored center", engine.digest(), center.digest)


def _compare(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise EngineError(
            f"self-check: with {what} this engine holds weights {found[:12]}..., "
            f"by the rule they are {expected[:12]}..."
        )
