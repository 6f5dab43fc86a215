"""Ray actors: thin shells around engines, consolidation and the gate. No algorithm lives here.

Scorer actors own an engine and score candidates on support and validation; the reducer
consolidates and stages models; a gate actor holds one held-out split alone and evaluates on an engine
leased to it. Only seeds, amplitudes, texts and rewards travel. torch is imported in the actor's
process, never by the driver.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from corp_ray import recipe as recipe_file
from corp_ray.consolidate import Consolidation, consolidate
from corp_ray.direction import Direction
from corp_ray.errors import (
    CorpError,
    EngineError,
    EngineLostError,
    EngineUnfitError,
)
from corp_ray.graders import Grading, evaluation
from corp_ray.model_cache import digested, local_folder
from corp_ray.recipe import Recipe
from corp_ray.records import Candidate, Center, Evaluation, Example, Generation, Ready, Work
from corp_ray.reward_pool import InPlace, RewardPool, rewards_of
from corp_ray.storage import Storage
from corp_ray.tasks import Messages, answer_of, make_task
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import NAMES

if TYPE_CHECKING:
    from corp_ray.engines import Engine, EngineSettings


class _Warnings(logging.Handler):
    """Collects the warnings of an actor's process, which otherwise only its log file would show."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logging.getLogger("corp_ray").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _on_engine(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of an actor that ends with the first call after its engine was lost."""

    @functools.wraps(method)
    async def guarded(self: Scorer, *arguments: Any) -> Any:
        if self.engine_lost:
            ray.actor.exit_actor()
        try:
            return await method(self, *arguments)
        except EngineLostError:
            self.engine_lost = True
            raise

    return guarded


class Scorer:
    """One engine with the support and validation splits; the class behind `ScorerActor`.

    Everything is made by the first call, so that what is wrong with it on this node reaches the
    driver as the error that it is. The engine has a thread of its own, where calls queue in their
    order; a call's answers are graded elsewhere while the engine goes on with the next call.
    """

    def __init__(self, engine: EngineSettings, settings: TaskSettings):
        self.engine_lost = False
        self._warnings = _Warnings()
        self._settings, self._task_settings = engine, settings
        self._task: Any = None
        self._grading: Grading | None = None
        self._examples: dict[str, tuple[Example, ...]] = {}
        self._made: Engine | None = None
        self._center: Center | None = None
        self._checked = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def _engine(self) -> Engine:
        from corp_ray.engines import make_engine

        if self._made is None:
            self._made = make_engine(self._settings)
        return self._made

    async def _on_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    @_on_engine
    async def ready(self, center: Center) -> Ready:
        """Load task and center and pass the self-check, or say what this node lacks."""
        context = ray.get_runtime_context()
        try:
            self._task = make_task(**self._task_settings.task)
            name = (context.get_actor_name() or "scorer").replace("/scorer/", "/grader/")
            self._grading = Grading(self._task, self._task_settings, name)
            described, said = await asyncio.gather(
                self._on_thread(self._prepare, center), self._grading.start()
            )
        except CorpError as error:
            return Ready(context.get_node_id(), error=error)
        return Ready(context.get_node_id(), described, (*self._warnings.lines, *said))

    def _prepare(self, center: Center) -> str:
        self._examples = self._task_settings.examples(self._task, ("support", "validation"))
        self._use(center)
        return self._engine.describe()

    @_on_engine
    async def score(self, work: Work) -> list[Evaluation]:
        """One evaluation per candidate. Candidates of a sweep share their terms and a held sum."""
        loop = asyncio.get_running_loop()
        graded = await self._on_thread(self._answered, work, loop)
        return [await asyncio.wrap_future(one) for one in graded]

    def _answered(self, work: Work, loop: asyncio.AbstractEventLoop) -> list[Future[Evaluation]]:
        """The engine's part of a call; what it answered is being graded."""
        self._use(work.center)
        prompts = [self._task.prompt(example) for example in self._examples[work.split]]
        swept = work.candidates[0].kind == "proposal"
        if swept:
            self._engine.hold(Direction(work.candidates[0].terms))
        try:
            return [self._scored(work, candidate, prompts, loop) for candidate in work.candidates]
        finally:
            if swept:
                self._engine.release()

    def _scored(
        self,
        work: Work,
        candidate: Candidate,
        prompts: Sequence[Messages],
        loop: asyncio.AbstractEventLoop,
    ) -> Future[Evaluation]:
        begin = time.perf_counter()
        if candidate.kind == "proposal":
            self._engine.apply_step(candidate.step)
        else:
            self._engine.apply(Direction(candidate.scaled))
        generations = self._engine.generate(prompts)
        seconds, engine = time.perf_counter() - begin, self._engine.describe()
        return asyncio.run_coroutine_threadsafe(
            self._graded(work, candidate, generations, seconds, engine), loop
        )

    async def _graded(
        self,
        work: Work,
        candidate: Candidate,
        generations: Sequence[Generation],
        seconds: float,
        engine: str,
    ) -> Evaluation:
        if self._grading is None:
            raise EngineError("an engine was asked to score before it was ready")
        texts = [generation.text for generation in generations]
        return evaluation(
            await self._grading.grade(self._examples[work.split], texts),
            generations,
            candidate=candidate,
            center_digest=work.center.digest,
            split=work.split,
            seconds=seconds,
            engine=engine,
        )

    @_on_engine
    async def answer(
        self, center: Center, candidate: Candidate, prompts: Sequence[Messages]
    ) -> tuple[list[Generation], str]:
        """Answers of center + candidate by the exact rule, and what the engine is."""
        return await self._on_thread(self._answer, center, candidate, prompts)

    def _answer(
        self, center: Center, candidate: Candidate, prompts: Sequence[Messages]
    ) -> tuple[list[Generation], str]:
        self._use(center)
        self._engine.apply(Direction(candidate.scaled))
        return self._engine.generate(prompts), self._engine.describe()

    @_on_engine
    async def digest(self, center: Center, candidate: Candidate) -> str:
        """Digest of the weights that center + candidate has in this engine."""
        return await self._on_thread(self._digest, center, candidate)

    def _digest(self, center: Center, candidate: Candidate) -> str:
        self._use(center)
        self._engine.apply(Direction(candidate.scaled))
        return self._engine.digest()

    def _use(self, center: Center) -> None:
        """Errors: EngineUnfitError, CheckpointError, ConfigError when it cannot be had here."""
        if self._center == center:
            return
        self._center = None
        here = replace(center, path=str(local_folder(center.path, center.digest)))
        try:
            self._engine.load(here)
            if not self._checked:
                self._check(here)
        except EngineLostError:
            raise
        except EngineError as error:
            raise EngineUnfitError(str(error)) from error
        self._center = center

    def _check(self, center: Center) -> None:
        from corp_ray.engines.self_check import self_check

        prompts = [self._task.prompt(example) for example in self._examples["support"][:2]]
        self_check(self._engine, center, self._settings, prompts)
        self._checked = True


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
        begin = time.perf_counter()
        prompts = [self._task.prompt(example) for example in self._examples]
        generations, engine = ray.get(scorer.answer.remote(center, candidate, prompts))
        seconds = time.perf_counter() - begin
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
        examples = self._deal()
        return [
            answer_of(self._task, example, text)
            for example, text in zip(examples, texts, strict=True)
        ]


class Reducer:
    """Consolidates rewards and stages models; the class behind `ReducerActor`."""

    def __init__(self, threads: int):
        self._threads = threads

    def center(self, path: str, dtype: str) -> Center:
        """The center in a folder, digested in the run's dtype."""
        from corp_ray import checkpoint

        def digest_of(folder: Path) -> str:
            return checkpoint.folder_digest(folder, dtype, threads=self._threads)

        return Center(path, digested(path, digest_of))

    def longest_prompt(self, folder: str, template: str, settings: TaskSettings) -> int:
        """Tokens of the longest prompt of all splits; the splits are dropped again."""
        from corp_ray.engines import prompts

        task = make_task(**settings.task)
        splits = settings.examples(task, NAMES)
        messages = [task.prompt(example) for name in NAMES for example in splits[name]]
        return prompts.longest(Path(folder), messages, template)

    def consolidate(
        self,
        directions: Sequence[Direction],
        rewards: Sequence[float],
        grid: Sequence[tuple[float, float]],
        rank: int,
        compatibility: float,
    ) -> list[Consolidation]:
        """One consolidation per (quantile, inverse temperature) of the grid."""
        return [
            consolidate(
                directions,
                rewards,
                quantile=quantile,
                inverse_temperature=inverse_temperature,
                rank=rank,
                compatibility=compatibility,
            )
            for quantile, inverse_temperature in grid
        ]

    def stage(self, center: Center, target: str, recipe: Recipe, direction: Direction) -> str:
        """Write the weights of center + direction to a folder beside their place; their digest."""
        from corp_ray import checkpoint

        return checkpoint.stage(
            local_folder(center.path, center.digest),
            Path(target),
            recipe,
            [direction],
            threads=self._threads,
        )

    def commit(self, staged: str, final: str, recipe: Recipe) -> None:
        """Give a staged folder its recipe and its place; nothing to do where it has that place."""
        from corp_ray import checkpoint

        place = Storage.open(final)
        if not checkpoint.is_committed(place) or recipe_file.read(place) != recipe:
            checkpoint.commit(Path(staged), place, recipe)

    def is_there(self, folder: str) -> bool:
        """Whether this node has a folder."""
        return Path(folder).is_dir()

    def discard(self, folders: Sequence[str]) -> None:
        """Remove staged folders, as far as they are on this node."""
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


ScorerActor = ray.remote(Scorer)
GateActor = ray.remote(Gate)
ReducerActor = ray.remote(Reducer)
