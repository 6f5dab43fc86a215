"""Engines: what holds a model's weights, perturbs them and writes answers.

An engine is any class with the `Engine` protocol, built by `make_engine` from plain settings. It
keeps the pristine center, so that every direction is applied to the same weights and the empty
direction restores them bit for bit. See docs/method.md, "Engines".
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from corp_ray.direction import Direction
from corp_ray.errors import EngineError
from corp_ray.records import Center, Generation
from corp_ray.tasks import Messages

_KINDS = {
    "transformers": "corp_ray.engines.transformers:TransformersEngine",
    "vllm": "corp_ray.engines.vllm:VllmEngine",
}
VLLM_INSTALL = "install 'corp-ray[vllm]' for GPUs; README.md, \"vLLM\", says how on a CPU"


@dataclass(frozen=True)
class EngineSettings:
    """Plain settings of an engine; `options` belong to the kind.

    `prompt_tokens` is the length of a run's longest prompt, 0 when it is not known.
    """

    kind: str
    dtype: str
    device: str
    threads: int
    chat_template: str
    max_new_tokens: int
    batch_size: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    tensor_parallel: int = 1
    pristine: str = "auto"
    prompt_tokens: int = 0


class Engine(Protocol):
    """One loaded model. Directions are always added to the center that `load` set."""

    def load(self, center: Center) -> None:
        """Take the folder's weights as the center; EngineError when their digest is another."""

    def apply(self, direction: Direction, only: Sequence[str] | None = None) -> None:
        """Working weights = center + direction by the exact rule; the empty one restores.

        `only`: of the perturbed tensors these alone move, all others are the center's.
        """

    def hold(self, direction: Direction) -> None:
        """Keep the float32 sum of a direction for `apply_step`, until `release`."""

    def apply_step(self, step: float) -> None:
        """Working weights = center + fl32(step * held sum)."""

    def release(self) -> None:
        """Free what `hold` keeps."""

    def generate(self, prompts: Sequence[Messages]) -> list[Generation]:
        """Greedy answers, in the order of the prompts."""

    def next_token_logprobs(
        self, prompts: Sequence[Messages], written: int = 0
    ) -> list[dict[int, float]]:
        """Log-probabilities of the likeliest tokens (20 or more), by token id, after each prompt
        and the `written` tokens that the model itself goes on with."""

    def digest(self) -> str:
        """Digest of the working float tensors under their canonical names."""

    def describe(self) -> str:
        """What answers depend on beside weights and prompts; rows of another are never mixed."""


def make_engine(settings: EngineSettings) -> Engine:
    """An engine of the named kind, or of "module:Class". Errors: EngineError."""
    module, _, name = _KINDS.get(settings.kind, settings.kind).partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine.kind={settings.kind!r}: {error}") from error
    return factory(settings)
