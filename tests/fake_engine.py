"""A deterministic engine without a language model, for tests of everything around engines.

It holds real tensors and perturbs them by the real rule, but "answers" from one number: the
weights' projection on a hidden direction. Each question has a difficulty; it is answered rightly
when the projection beats it. So good directions exist, add up, and can be found by searching.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from corp_ray import checkpoint, noise, parameters, weights
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.engines.self_check import KNOWN
from corp_ray.errors import CheckpointError, EngineError, EngineLostError
from corp_ray.records import Center, Generation

HIDDEN_SEED = 20_240_229


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


class FakeEngine:
    """Engine protocol. Options: delay_s per answer round, gain (logits per unit of projection),
    offset (the base's logit), die_once (a file whose removal ends the process), wrong_digest
    (report other weights than a direction gives, the self-check's excepted), deaf (directions
    change nothing), lose_once (a file whose removal leaves the engine lost, its process alive),
    lose_first (likewise, in its start), hang_once (a file whose removal leaves the call without an
    answer), fatal (seeds of candidates that end the process), fatal_steps (those of proposals that
    do), unfit (a file with the ids of nodes where no engine can load), journal (a file that gets a
    line "number of prompts, seed" when a direction of one seed is begun)."""

    def __init__(self, settings: EngineSettings):
        self._settings = settings
        options = {
            "delay_s": 0.0,
            "gain": 40.0,
            "offset": -1.0,
            "die_once": "",
            "wrong_digest": False,
            "deaf": False,
            "lose_once": "",
            "lose_first": "",
            "hang_once": "",
            "fatal": [],
            "fatal_steps": [],
            "unfit": "",
            "journal": "",
        }
        options |= settings.options
        self._delay_s, self._gain = float(options["delay_s"]), float(options["gain"])
        self._offset, self._die_once = float(options["offset"]), str(options["die_once"])
        self._wrong_digest, self._moved = bool(options["wrong_digest"]), False
        self._deaf, self._lose_once = bool(options["deaf"]), str(options["lose_once"])
        self._lost, self._lose_first = False, str(options["lose_first"])
        self._hang_once, self._unfit = str(options["hang_once"]), str(options["unfit"])
        self._fatal, self._journal = set(options["fatal"]), str(options["journal"])
        self._fatal_steps = set(options["fatal_steps"])
        self._seeds: list[int] = []  # of the direction that was applied last
        self._center: dict[str, torch.Tensor] = {}
        self._held: dict[str, torch.Tensor] = {}

    def load(self, center: Center) -> None:
        if self._unfit and _node() in Path(self._unfit).read_text():
            raise CheckpointError(f"{center.path}: no such folder")
        if self._lose_first and Path(self._lose_first).exists():
            Path(self._lose_first).unlink()
            raise EngineLostError("a rank does not answer")
        specs = [s for s in parameters.read_specs(Path(center.path)) if s.is_float]
        self._center = checkpoint.read_tensors(Path(center.path), specs, self._settings.dtype)
        self._working = {name: tensor.clone() for name, tensor in self._center.items()}
        if self.digest() != center.digest:
            raise EngineError(f"{center.path}: other weights than the run's")

    def apply(self, direction: Direction, only: Sequence[str] | None = None) -> None:
        self._moved = bool(direction.terms) and direction != KNOWN
        self._seeds = [seed for seed, _ in direction.terms]
        if len(direction) == 1 and direction.terms[0][0] in self._fatal:
            os._exit(1)
        weights.apply(self._working, self._center, Direction())
        names = () if self._deaf else self._center if only is None else only
        weights.apply(self._working, {n: self._center[n] for n in names}, direction)

    def hold(self, direction: Direction) -> None:
        self._held = {n: torch.empty(t.shape) for n, t in self._center.items()}
        weights.materialise(self._held, direction)

    def apply_step(self, step: float) -> None:
        self._seeds = []
        if step in self._fatal_steps:
            os._exit(1)
        weights.apply_step(self._working, self._center, self._held, step)

    def release(self) -> None:
        self._held = {}

    def generate(self, prompts: Sequence[list[dict[str, str]]]) -> list[Generation]:
        if self._journal and len(self._seeds) == 1:
            with Path(self._journal).open("a") as journal:
                journal.write(f"{len(prompts)} {self._seeds[0]}\n")
        if self._die_once and Path(self._die_once).exists():
            Path(self._die_once).unlink()
            os._exit(1)
        if self._lose_once and Path(self._lose_once).exists():
            Path(self._lose_once).unlink()
            self._lost = True
        if self._lost:
            raise EngineLostError("the ranks do not answer")
        if self._hang_once and Path(self._hang_once).exists():
            Path(self._hang_once).unlink()
            time.sleep(3600)
        time.sleep(self._delay_s)
        skill = 1 / (1 + math.exp(-(self._offset + self._gain * self._projection())))
        return [self._answer(prompt[-1]["content"], skill) for prompt in prompts]

    def _projection(self) -> float:
        total, size = 0.0, 0
        for name, tensor in sorted(self._working.items()):
            hidden = noise.gaussian(HIDDEN_SEED, name, 0, tensor.numel()).astype(np.float64)
            total += float(np.dot(tensor.double().view(-1).numpy(), hidden))
            size += tensor.numel()
        return total / math.sqrt(size)

    @staticmethod
    def _answer(question: str, skill: float) -> Generation:
        digest = hashlib.sha256(question.encode()).digest()
        difficulty = int.from_bytes(digest[:6], "little") / 2**48
        return Generation(question.split()[-1] if difficulty < skill else "0", 1)

    def next_token_logprobs(
        self, prompts: Sequence[list[dict[str, str]]], written: int = 0
    ) -> list[dict[int, float]]:
        return [{0: self._projection()} for _ in prompts]

    def digest(self) -> str:
        wrong = self._wrong_digest and self._moved
        return "0" * 64 if wrong else checkpoint.tensors_digest(self._working)

    def describe(self) -> str:
        return f"fake {self._settings.dtype}"


class FakeCounter(FakeEngine):
    """Answers "How many letters has WORD ..." of the README's task."""

    @staticmethod
    def _answer(question: str, skill: float) -> Generation:
        said = FakeEngine._answer(question, skill).text
        return Generation("0" if said == "0" else str(len(question.split()[4])), 1)


class FakeJudge(FakeEngine):
    """The same model behind another name."""

    def describe(self) -> str:
        return f"judge {self._settings.dtype}"


class UnfitJudge(FakeJudge):
    """A judge that works nowhere."""

    def load(self, center: Center) -> None:
        raise CheckpointError(f"{center.path}: not for this judge")
