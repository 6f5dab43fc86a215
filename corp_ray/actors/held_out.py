"""The actor that holds one held-out split alone and evaluates on an engine that is leased to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import ray

from corp_ray.graders import evaluation
from corp_ray.records import Candidate, Center, Evaluation, Example
from corp_ray.reward_pool import InPlace, RewardPool, rewards_of
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import TaskSettings


class Gate:
    """Holds one held-out split (gate, or test) and evaluates on a leased scorer; see `GateActor`."""

    def __init__(self, split: str, settings: TaskSettings):
        self._split, self._settings = split, settings
        self._task: Any = None
        self._rewards: RewardPool | InPlace | None = None
        self._examples: tuple[Example, ...] = ()
        self._lock = threading.RLock()

    def _deal(self) -> tuple[Example, ...]:
        """The split; by the first call, so that an error reaches the driver as what it is."""
        with self._lock:
            if not self._examples:
                self._task = make_task(**self._settings.task)
                self._examples = self._settings.examples(self._task, (self._split,))[self._split]
            return self._examples

    def _open(self) -> RewardPool | InPlace:
        """Deal the split and start what grades it."""
        with self._lock:
            if self._rewards is None:
                self._deal()
                rewards = rewards_of(self._task, self._settings)
                rewards.start()
                self._rewards = rewards
            return self._rewards

    def evaluate(self, scorer: Any, center: Center, candidate: Candidate) -> Evaluation:
        """The candidate's rewards on this actor's split, answered by the leased scorer."""
        rewards = self._open()
        prompts = [self._task.prompt(example) for example in self._examples]
        generations, seconds, engine = ray.get(scorer.answer.remote(center, candidate, prompts))
        return evaluation(
            rewards.grade(self._examples, [generation.text for generation in generations]),
            generations,
            candidate=candidate,
            center_digest=center.digest,
            split=self._split,
            seconds=seconds,
            engine=engine,
            keep_texts=True,
        )

    def questions(self) -> list[dict[str, str]]:
        """Id, question and answer of every example, for people who look at what was answered."""
        return [{"id": e.id, "question": e.question, "answer": e.answer} for e in self._deal()]

    def answers(self, texts: Sequence[str]) -> list[str | None]:
        """What each text, one for every example, gives as its answer; None where it gives none."""
        return self._open().answers(self._deal(), texts)
