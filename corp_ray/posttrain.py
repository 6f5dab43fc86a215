"""A run, or a measurement, from configuration to result: check, connect, do, report."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from corp_ray import cluster
from corp_ray import config as configuration
from corp_ray.compared import Comparison
from corp_ray.comparison import compare_run, needs_run
from corp_ray.errors import ConfigError, StoppedError
from corp_ray.measure import Measured
from corp_ray.model_folder import export, read_recipe
from corp_ray.observers import Displays, Observer
from corp_ray.preparation import Prepared, prepare
from corp_ray.progress import ENDED, FAILED, STOPPED, ProgressFile
from corp_ray.report import make_report
from corp_ray.run_directory import RunDirectory
from corp_ray.search import Run, RunResult, Scored
from corp_ray.settings import Config
from corp_ray.stopping import StopRequest
from corp_ray.storage import Storage, is_url
from corp_ray.telemetry import RayMetrics
from corp_ray.tracking import open_tracking

log = logging.getLogger(__name__)
_STOPS = (StoppedError, KeyboardInterrupt)
Connect = Callable[[Sequence[str]], None]


def config_modules(config: Config) -> list[str]:
    """Modules that the configuration names: engine classes, a grader."""
    named = (config.engine.kind, config.engine.judge, config.task.grader)
    return [name.partition(":")[0] for name in named if ":" in name]


def check_place(config: Config) -> None:
    """ConfigError for a folder inside the temporary copy that a submitted job works in."""
    for name, place, right in (
        ("run.directory", config.run.directory, "an absolute path or a URL"),
        ("tracking.folder", config.tracking.folder or "/", "an absolute path"),
    ):
        if cluster.submitted() and not is_url(place) and not Path(place).expanduser().is_absolute():
            raise ConfigError(
                f"{name}={place!r}: expected {right}; a submitted job works in a temporary copy of "
                "its working directory, and what it leaves there is lost"
            )


@contextmanager
def _opened(
    config: Config, display: Observer, connect: Connect, *, shard: str = ""
) -> Iterator[tuple[Prepared, RunDirectory, Run]]:
    """A checked configuration, its directory and its engines; everything is closed at the end."""
    check_place(config)
    tracking = open_tracking(config, shard=shard)
    directory = RunDirectory(config, shard=shard)
    directory.check_writable()
    directory.check_config()
    directory.lease.check_free()
    prepared = prepare(config)
    display.note(
        f"{config.run.id}: {prepared.folder.name}, {prepared.parameters:,} parameters perturbed, "
        f"{prepared.task_name}"
    )
    directory.check_identity(prepared.identity)
    stop = StopRequest(config.ray.drain_s)
    connect(config_modules(config))
    progress = ProgressFile(directory.write_progress)
    watchers = [display, RayMetrics(config.run.id), progress]
    observers = Displays(*watchers, *([tracking] if tracking else []))
    try:
        stop.listen()
        engines = cluster.plan_engines(
            engines=config.ray.engines,
            gpus_per_engine=config.ray.gpus_per_engine,
            threads=config.engine.threads,
            device=config.engine.device,
            ranks=config.engine.tensor_parallel,
            judge=prepared.judge is not None,
            wait_s=config.ray.wait_s,
            stop=stop,
        )
        run = Run(prepared, directory, observers, engines, stop)
        try:
            yield prepared, directory, run
        finally:
            run.close()
    except BaseException as error:
        progress.close(STOPPED if isinstance(error, _STOPS) else FAILED, str(error))
        raise
    else:
        progress.close(ENDED)
    finally:
        directory.lease.release()
        cluster.disconnect()
        if tracking:
            tracking.close()


def posttrain(
    config: Config, display: Observer, *, connect: Connect = cluster.connect
) -> RunResult:
    """Run or resume the experiment of `config`; everything checkable is checked before Ray starts.

    Errors: ConfigError, TaskError, CheckpointError, RewardTableError for what the user can mend;
    EngineError and DiskFullError for what happened on the way. What is on disk stays valid.
    """
    with _opened(config, display, connect) as (prepared, directory, run):
        result = _decided(prepared, directory, run)
    if config.run.report:
        report(directory.root, display)
    return result


def _decided(prepared: Prepared, directory: RunDirectory, run: Run) -> RunResult:
    """The run to its end, with its report."""
    result = run.execute()
    content = {
        "split_digest": prepared.task.digests["test"],
        "stop_reason": result.stop_reason,
        "commits": [commit.path for commit in result.commits],
        "test": [asdict(row) for row in result.test],
    }
    directory.report.write_json("test.json", content)
    return result


def compare(config: Config, display: Observer, *, connect: Connect = cluster.connect) -> Comparison:
    """The run beside what else its rewards could have been used for, on the test split.

    A run that is not at its end is run or resumed first, where a method needs it. Errors: as
    `posttrain`; RewardTableError for voters whose answers an older version of the program did not keep.
    """
    configuration.validate_comparison(config)
    with _opened(config, display, connect) as (prepared, directory, run):
        result = _decided(prepared, directory, run) if needs_run(config) else None
        comparison = compare_run(prepared, directory, run, result)
        directory.lease.check()
        directory.report.write_json("compare.json", asdict(comparison))
    if config.run.report:
        report(directory.root, display)
    return comparison


def report(root: Storage, display: Observer) -> None:
    """Make a run's report, when nothing works on it any more. A failure is a line in the log."""
    try:
        display.note(f"report: {make_report(root)}")
    except Exception as error:  # noqa: BLE001 whatever it is, the run is decided and on disk
        said = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("no report was made (%s); jobs.report makes it from what is on disk", said)


def score(config: Config, display: Observer, *, connect: Connect = cluster.connect) -> Scored:
    """Score one shard of round 0's population into the run's reward table; decides nothing.

    Several may be at work on one run at once. Errors: as `posttrain`.
    """
    shard, shards = config.score.shard, config.score.shards
    with _opened(config, display, connect, shard=f"{shard}-of-{shards}") as (_, _, run):
        return run.score_shard(shard, shards)


def evaluate(
    config: Config, display: Observer, *, connect: Connect = cluster.connect
) -> tuple[Measured, ...]:
    """The base and `evaluate.model` (a model folder, or a recipe on that base) on the test split.

    Rewards are kept in a run directory of their own, `<run.id>-evaluate`, so nothing is scored
    twice. Errors: as `posttrain`.
    """
    given = config.evaluate.model
    config = replace(config, run=replace(config.run, id=f"{config.run.id}-evaluate"))
    with model_folder(config) as model, _opened(config, display, connect) as (_, directory, run):
        rows = run.compare(model, Storage.open(model).name)
        name = Storage.open(given).name if is_url(given) else Path(given).name
        content = {"model": given, "test": [asdict(row) for row in rows]}
        directory.report.write_json(f"evaluate-{name}.json", content)
    return rows


@contextmanager
def model_folder(config: Config) -> Iterator[str]:
    """`evaluate.model` as a folder or URL; what a recipe makes lasts as long as this.

    It lies beside the run directories where those are local: engines on other nodes find it there.
    """
    given = config.evaluate.model
    place = Path(given).expanduser().resolve()
    if is_url(given):
        read_recipe(given, "evaluate.model")  # written last: with it a folder is complete
        model, is_recipe = given, Storage.open(given).name.endswith(".json")
    elif given and place.exists():
        model, is_recipe = str(place), place.is_file()
    else:
        raise ConfigError(f"evaluate.model={given!r}: no such folder or recipe")
    if not is_recipe:
        yield model
        return
    directory = RunDirectory(config)
    directory.check_writable()
    directory.lease.check_free()
    beside, mark = directory.root.parent.local, f".{config.run.id}="  # no run's own name
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
        for left in beside.glob(f"{mark}*"):  # by a job that was killed
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=mark, dir=beside) as scratch:
        export(model, f"{scratch}/model", config.model.path, config.engine.threads)
        yield f"{scratch}/model"
