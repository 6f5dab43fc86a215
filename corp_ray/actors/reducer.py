"""The actor that consolidates rewards and stages models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from corp_ray import recipe as recipe_file
from corp_ray.consolidate import Consolidation, consolidate
from corp_ray.direction import Direction
from corp_ray.model_cache import digested, local_folder
from corp_ray.recipe import Recipe
from corp_ray.records import Center
from corp_ray.storage import Storage
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import NAMES


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
