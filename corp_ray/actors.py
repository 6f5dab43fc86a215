"""Ray actors: thin shells around engines, consolidation and the gate. No algorithm lives here.

Scorer actors own an engine and score candidates on support and validation; the reducer
consolidates and stages models; a gate actor holds one held-out split alone and evaluates on an engine
leased to it. Only seeds, amplitudes, texts and rewards travel. torch is imported in the actor's
process, never by the driver.
"""

from __future__ import annotations

import functools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
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
from corp_ray.model_cache import digested, local_folder
from corp_ray.recipe import Recipe
from corp_ray.records import Candidate, Center, Evaluation, Example, Generation, Ready, Work
from corp_ray.storage import Storage
from corp_ray.tasks import Messages, make_task
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import NAMES

if TYPE_CHECKING:
    from corp_ray.engines import Engine, EngineSettings


def _grade(
    task: Any,
    examples: Sequence[Example],
    generations: Sequence[Generation],
    *,
    candidate: Candidate,
    center: Center,
    split: str,
    seconds: float,
    engine: str,
) -> Evaluation:
    grades = [task.reward(e, g.text) for e, g in zip(examples, generations, strict=True)]
    return Evaluation(
        candidate=candidate,
        center_digest=center.digest,
        split=split,
        rewards=tuple(grade.reward for grade in grades),
        outcomes=tuple(grade.outcome for grade in grades),
        generated_tokens=sum(generation.tokens for generation in generations),
        seconds=seconds,
        engine=engine,
    )


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
    def guarded(self: Scorer, *arguments: Any) -> Any:
        if self.engine_lost:
            ray.actor.exit_actor()
        try:
            return method(self, *arguments)
        except EngineLostError:
            self.engine_lost = True
            raise

    return guarded


class Scorer:
    """One engine with the support and validation splits; the class behind `ScorerActor`.

    Everything is made by the first call, so that what is wrong with it on this node reaches the
    driver as the error that it is.
    """

    def __init__(self, engine: EngineSettings, settings: TaskSettings):
        self.engine_lost = False
        self._warnings = _Warnings()
        self._settings, self._task_settings = engine, settings
        self._task: Any = None
        self._examples: dict[str, tuple[Example, ...]] = {}
        self._made: Engine | None = None
        self._center: Center | None = None
        self._checked = False

    @property
    def _engine(self) -> Engine:
        from corp_ray.engines import make_engine

        if self._made is None:
            self._made = make_engine(self._settings)
        return self._made

    @_on_engine
    def ready(self, center: Center) -> Ready:
        """Load task and center and pass the self-check, or say what this node lacks."""
        node = ray.get_runtime_context().get_node_id()
        try:
            self._task = make_task(**self._task_settings.task)
            self._examples = self._task_settings.examples(self._task, ("support", "validation"))
            self._use(center)
        except CorpError as error:
            return Ready(node, error=error)
        return Ready(node, self._engine.describe(), tuple(self._warnings.lines))

    @_on_engine
    def score(self, work: Work) -> list[Evaluation]:
        """One evaluation per candidate. Candidates of a sweep share their terms and a held sum."""
        self._use(work.center)
        examples = self._examples[work.split]
        prompts = [self._task.prompt(example) for example in examples]
        swept = work.candidates[0].kind == "proposal"
        if not swept:
            return [self._scored(work, candidate, prompts) for candidate in work.candidates]
        self._engine.hold(Direction(work.candidates[0].terms))
        try:
            return [self._scored(work, candidate, prompts) for candidate in work.candidates]
        finally:
            self._engine.release()

    def _scored(self, work: Work, candidate: Candidate, prompts: Sequence[Messages]) -> Evaluation:
        begin = time.perf_counter()
        if candidate.kind == "proposal":
            self._engine.apply_step(candidate.step)
        else:
            self._engine.apply(Direction(candidate.scaled))
        generations = self._engine.generate(prompts)
        return _grade(
            self._task,
            self._examples[work.split],
            generations,
            candidate=candidate,
            center=work.center,
            split=work.split,
            seconds=time.perf_counter() - begin,
            engine=self._engine.describe(),
        )

    @_on_engine
    def answer(
        self, center: Center, candidate: Candidate, prompts: Sequence[Messages]
    ) -> tuple[list[Generation], str]:
        """Answers of center + candidate by the exact rule, and what the engine is."""
        self._use(center)
        self._engine.apply(Direction(candidate.scaled))
        return self._engine.generate(prompts), self._engine.describe()

    @_on_engine
    def digest(self, center: Center, candidate: Candidate) -> str:
        """Digest of the weights that center + candidate has in this engine."""
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
        self._examples: tuple[Example, ...] = ()
        self._lock = threading.Lock()

    def _open(self) -> None:
        """Deal the split; by the first call, so that an error reaches the driver as what it is."""
        with self._lock:
            if self._task is None:
                task = make_task(**self._settings.task)
                self._examples = self._settings.examples(task, (self._split,))[self._split]
                self._task = task

    def evaluate(self, scorer: Any, center: Center, candidate: Candidate) -> Evaluation:
        """The candidate's rewards on this actor's split, answered by the leased scorer."""
        self._open()
        begin = time.perf_counter()
        prompts = [self._task.prompt(example) for example in self._examples]
        generations, engine = ray.get(scorer.answer.remote(center, candidate, prompts))
        return _grade(
            self._task,
            self._examples,
            generations,
            candidate=candidate,
            center=center,
            split=self._split,
            seconds=time.perf_counter() - begin,
            engine=engine,
        )


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
