"""A run, or a measurement, from configuration to result: check, connect, do, report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from corp_ray import pool
from corp_ray.errors import ConfigError
from corp_ray.model_folder import export, read_recipe
from corp_ray.preparation import Prepared, prepare
from corp_ray.run_directory import RunDirectory
from corp_ray.scoring import Display
from corp_ray.search import Measured, Run, RunResult
from corp_ray.settings import Config
from corp_ray.storage import Storage, is_url

Connect = Callable[[], None]


@contextmanager
def _opened(
    config: Config, display: Display, connect: Connect
) -> Iterator[tuple[Prepared, RunDirectory, Run]]:
    """A checked configuration, its directory and its engines; everything is closed at the end."""
    directory = RunDirectory(config)
    directory.check_writable()
    directory.check_config()
    directory.lease.check_free()
    prepared = prepare(config)
    display.note(
        f"{config.run.id}: {prepared.folder.name}, {prepared.parameters:,} parameters perturbed, "
        f"{prepared.task_name}"
    )
    directory.check_identity(prepared.identity)
    connect()
    try:
        engines = pool.plan_engines(
            engines=config.ray.engines,
            gpus_per_engine=config.ray.gpus_per_engine,
            threads=config.engine.threads,
            device=config.engine.device,
            ranks=config.engine.tensor_parallel,
            judge=prepared.judge is not None,
        )
        run = Run(prepared, directory, display, engines)
        try:
            yield prepared, directory, run
        finally:
            run.close()
    finally:
        directory.lease.release()
        pool.disconnect()


def posttrain(config: Config, display: Display, *, connect: Connect = pool.connect) -> RunResult:
    """Run or resume the experiment of `config`; everything checkable is checked before Ray starts.

    Errors: ConfigError, TaskError, CheckpointError, RewardTableError for what the user can mend;
    EngineError and DiskFullError for what happened on the way. What is on disk stays valid.
    """
    with _opened(config, display, connect) as (prepared, directory, run):
        result = run.execute()
        content = {
            "split_digest": prepared.task.digests["test"],
            "stop_reason": result.stop_reason,
            "commits": [commit.path for commit in result.commits],
            "test": [asdict(row) for row in result.test],
        }
        directory.report.write_json("test.json", content)
    return result


def evaluate(
    config: Config, display: Display, *, connect: Connect = pool.connect
) -> tuple[Measured, ...]:
    """The base and `evaluate.model` (a model folder, or a recipe on that base) on the test split.

    Rewards are kept in a run directory of their own, `<run.id>-evaluate`, so nothing is scored
    twice. Errors: as `posttrain`.
    """
    given = config.evaluate.model
    model = given if is_url(given) else str(Path(given).expanduser().resolve())
    if is_url(given):
        read_recipe(given, "evaluate.model")  # written last: with it a folder is complete
    elif not given or not Path(model).exists():
        raise ConfigError(f"evaluate.model={given!r}: no such folder or recipe")
    config = replace(config, run=replace(config.run, id=f"{config.run.id}-evaluate"))
    with tempfile.TemporaryDirectory(prefix="corp-evaluate-") as scratch:
        name = Storage.open(given).name if is_url(given) else Path(given).name
        if name.endswith(".json") if is_url(given) else Path(model).is_file():
            export(model, f"{scratch}/model", config.model.path, config.engine.threads)
            model = f"{scratch}/model"
        with _opened(config, display, connect) as (_, directory, run):
            rows = run.compare(model, Storage.open(model).name)
            content = {"model": given, "test": [asdict(row) for row in rows]}
            directory.report.write_json(f"evaluate-{name}.json", content)
    return rows
