"""One run from configuration to result: check, connect, search, write the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from corp_ray import pool
from corp_ray.config import Config
from corp_ray.files import write_json
from corp_ray.preparation import prepare
from corp_ray.run_directory import RunDirectory
from corp_ray.scoring import Display
from corp_ray.search import Run, RunResult


def posttrain(
    config: Config, display: Display, *, connect: Callable[[], None] = pool.connect
) -> RunResult:
    """Run or resume the experiment of `config`; everything checkable is checked before Ray starts.

    Errors: ConfigError, TaskError, CheckpointError, RewardTableError for what the user can mend;
    EngineError and DiskFullError for what happened on the way. What is on disk stays valid.
    """
    directory = RunDirectory(config)
    directory.check_config()
    prepared = prepare(config)
    display.note(
        f"{config.run.id}: {prepared.folder.name}, {prepared.parameters:,} parameters perturbed, "
        f"{prepared.task_name}"
    )
    directory.open(prepared.identity)
    connect()
    try:
        run = Run(prepared, directory, display)
        try:
            result = run.execute()
        finally:
            run.close()
    finally:
        pool.disconnect()
    write_json(
        directory.report / "test.json",
        {
            "split_digest": prepared.split_digests["test"],
            "stop_reason": result.stop_reason,
            "commits": [commit.path for commit in result.commits],
            "test": [asdict(row) for row in result.test],
        },
    )
    return result
