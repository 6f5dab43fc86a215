"""The actor that owns an engine and scores candidates on support and validation.

It also answers for a gate actor that has leased it; see held_out.py.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from corp_ray.direction import Direction
from corp_ray.errors import (
    CorpError,
    EngineError,
    EngineLostError,
    EngineUnfitError,
    StorageError,
)
from corp_ray.graders import Grading, evaluation
from corp_ray.model_cache import local_folder
from corp_ray.records import Candidate, Center, Evaluation, Example, Generation, Ready, Work
from corp_ray.tasks import Messages, make_task
from corp_ray.tasks.settings import TaskSettings

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
        except (EngineLostError, StorageError):
            raise  # of this engine or this moment: another may start here
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
        generations, seconds, engine = self._written(
            candidate, prompts, stepped=candidate.kind == "proposal"
        )
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
    ) -> tuple[list[Generation], float, str]:
        """Answers of center + candidate by the exact rule, the engine's seconds, and what it is."""
        return await self._on_thread(self._answer, center, candidate, prompts)

    def _answer(
        self, center: Center, candidate: Candidate, prompts: Sequence[Messages]
    ) -> tuple[list[Generation], float, str]:
        self._use(center)
        return self._written(candidate, prompts)

    def _written(
        self, candidate: Candidate, prompts: Sequence[Messages], *, stepped: bool = False
    ) -> tuple[list[Generation], float, str]:
        """What the engine writes at a candidate, in how many seconds, and what it is; `stepped`
        moves by the held sum, else the exact rule does."""
        begin = time.perf_counter()
        if stepped:
            self._engine.apply_step(candidate.step)
        else:
            self._engine.apply(Direction(candidate.scaled))
        generations = self._engine.generate(prompts)
        return generations, time.perf_counter() - begin, self._engine.describe()

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
