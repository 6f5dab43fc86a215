"""Grader actors: CPU processes beside the engines, which grade one candidate's answers while the
engine writes the next one's.

Each scorer has its own, on its node and of its life; it takes no CPU slot. A task whose grading is
pure and quick needs none. See `reward_pool` for what a hung or crashing verifier costs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from corp_ray import cluster
from corp_ray.errors import CorpError, EngineError
from corp_ray.records import VERIFIER_ERROR, Candidate, Evaluation, Example, Generation, Grade
from corp_ray.reward_pool import InPlace, RewardPool
from corp_ray.tasks import in_place
from corp_ray.tasks.settings import TaskSettings

log = logging.getLogger(__name__)

_ATTEMPTS = 3


class Grader:
    """The class behind `GraderActor`: a pool of children with the task."""

    def __init__(self, settings: TaskSettings):
        self._pool = RewardPool(
            settings.task, processes=settings.processes, limit_s=settings.limit_s
        )

    def start(self) -> list[str] | CorpError:
        """What the task has to say on this node, or why it cannot be graded there."""
        try:
            return self._pool.start()
        except CorpError as error:
            return error

    def grade(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        return self._pool.grade(examples, texts)


GraderActor = ray.remote(Grader)


class Grading:
    """A scorer's side: where its answers are graded. `name`: of the actor, if one is needed."""

    def __init__(self, task: Any, settings: TaskSettings, name: str):
        self._settings, self._name, self._numbers = settings, name, 0
        self._here = InPlace(task) if in_place(task) else None
        self._actor: Any = None

    async def start(self) -> list[str]:
        """What the task has to say. Errors: TaskError when it cannot be made in the grader."""
        if self._here is not None:
            return self._here.start()
        said = await self._call("start")
        if isinstance(said, CorpError):
            raise said
        return list(said)

    async def grade(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
        """One grade per answer. Errors: EngineError when the grader is lost again and again."""
        if self._here is not None:
            return self._here.grade(examples, texts)
        return await self._call("grade", examples, texts)

    async def _call(self, method: str, *arguments: Any) -> Any:
        reason = ""
        for _ in range(_ATTEMPTS):
            if self._actor is None:
                self._actor = self._start()
            actor = self._actor
            try:
                return await getattr(actor, method).remote(*arguments)
            except RayTaskError as error:
                raise EngineError(f"the grader failed: {error.cause!r}") from error
            except RayActorError as error:
                reason = str(error).strip().splitlines()[-1]
                log.warning("a grader was lost; starting another (%s)", reason)
                if self._actor is actor:
                    self._actor = None
        raise EngineError(f"the grader was lost {_ATTEMPTS} times ({reason})")

    def _start(self) -> Any:
        self._numbers += 1
        # Beside the engine; the next call may come while the last answers are still graded.
        return GraderActor.options(
            name=f"{self._name}/{self._numbers}",
            num_cpus=0,
            max_concurrency=2,
            scheduling_strategy=cluster.here(),
        ).remote(self._settings)


def evaluation(
    grades: Sequence[Grade],
    generations: Sequence[Generation],
    *,
    candidate: Candidate,
    center_digest: str,
    split: str,
    seconds: float,
    engine: str,
    keep_texts: bool = False,
) -> Evaluation:
    """Grades and answers of one candidate on one split as a record; with the texts on request."""
    judged = any(grade.format is not None for grade in grades)
    failed = next((g.reason for g in grades if g.outcome == VERIFIER_ERROR), "")
    return Evaluation(
        candidate=candidate,
        center_digest=center_digest,
        split=split,
        rewards=tuple(grade.reward for grade in grades),
        outcomes=tuple(grade.outcome for grade in grades),
        generated_tokens=sum(generation.tokens for generation in generations),
        seconds=seconds,
        engine=engine,
        formats=tuple(
            float("nan") if grade.format is None else float(grade.format) for grade in grades
        )
        if judged
        else (),
        texts=tuple(generation.text for generation in generations) if keep_texts else (),
        error=failed,
    )
