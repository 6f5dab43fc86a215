"""A fake engine whose rewards have a structure of known rank over candidates and examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from corp_ray import noise
from corp_ray.engines import EngineSettings
from corp_ray.records import Generation
from tests.fake_engine import FakeEngine

_ABILITY_SEED = 7_000  # and the ones after it: the hidden directions of the abilities
_LUCK_SEED = 6_999


def _uniform(*parts: object) -> float:
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48


class PlantedEngine(FakeEngine):
    """Answers rightly with probability 1/2 + sum over `rank` of ability(weights) x load(question).

    An ability is the change of the weights along a hidden direction, in units of `scale`, squeezed
    into [-1, 1]. Chance is a function of weights and question, so that answers are reproducible.
    Options beside FakeEngine's: rank (0: chance alone), scale, strength.
    """

    def __init__(self, settings: EngineSettings):
        options = {"rank": 1, "scale": 0.01, "strength": 0.48} | settings.options
        self._rank = int(options["rank"])
        self._scale, self._strength = float(options["scale"]), float(options["strength"])
        super().__init__(settings)

    def _along(self, seed: int) -> float:
        total, size = 0.0, 0
        for name, tensor in sorted(self._working.items()):
            hidden = noise.gaussian(seed, name, 0, tensor.numel()).astype(np.float64)
            change = (tensor.double() - self._center[name].double()).view(-1).numpy()
            total += float(np.dot(change, hidden))
            size += tensor.numel()
        return total / math.sqrt(size)

    def generate(self, prompts: Sequence[list[dict[str, str]]]) -> list[Generation]:
        abilities = [
            math.tanh(self._along(_ABILITY_SEED + k) / self._scale) for k in range(self._rank)
        ]
        luck = self._along(_LUCK_SEED)
        answers = []
        for question in (prompt[-1]["content"] for prompt in prompts):
            loads = [2 * _uniform("load", k, question) - 1 for k in range(self._rank)]
            loads[:1] = map(abs, loads[:1])  # the first one helps everywhere: there is a gain
            gain = sum(a * b for a, b in zip(abilities, loads, strict=True))
            right = 0.5 + self._strength * gain / math.sqrt(max(self._rank, 1))
            hit = _uniform("luck", luck, question) < right
            answers.append(Generation(question.split()[-1] if hit else "0", 1))
        return answers
