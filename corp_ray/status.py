"""A run's state, read from its directory alone: no Ray, no engine, nothing written.

A live run changes while it is read: a file may be missing, and is then simply not there yet. See
docs/method.md, "What a run leaves".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corp_ray import config as configuration
from corp_ray import lease
from corp_ray.errors import ConfigError
from corp_ray.progress import ENDED, RUNNING
from corp_ray.progress import NAME as PROGRESS
from corp_ray.records import Verdict
from corp_ray.remaining import Measured, phase_left_s, run_left_s
from corp_ray.round_record import describe_verdict
from corp_ray.run_directory import METRICS, SET_ASIDE, lines, shard_leases
from corp_ray.settings import Config, TaskConfig
from corp_ray.storage import Storage
from corp_ray.table_summary import TableSummary, summarise
from corp_ray.tasks.splits import NAMES

INTERRUPTED, SILENT = "interrupted", "silent"
_MARKS = ("config.yaml", "environment.json", lease.FILE)


def read_status(location: str, *, sight_s: float = lease.SIGHT_S) -> dict[str, Any]:
    """What is known of the run in a directory, as plain data fit for JSON.

    While a lease is another machine's this takes until its counter moves, `sight_s` at most; for
    shards as long again.
    Errors: ConfigError when there is no such place, or no run in it.
    """
    try:
        return _read(location, Storage.open(location, "run directory"), sight_s)
    except PermissionError as error:
        raise ConfigError(f"{location}: cannot be read ({error.strerror})") from error


def _read(location: str, root: Storage, sight_s: float) -> dict[str, Any]:
    if not any(root.exists(mark) for mark in _MARKS):
        raise ConfigError(f"{location}: no run there (a run directory has a config.yaml)")
    driver = _sight(root, lease.FILE, sight_s)
    config, rounds = _config(root), _rounds(root)
    progress, report = _json(root, PROGRESS), _json(root, "report/test.json") or {}
    rows = summarise(root / "rewards")
    shards = {} if driver.state == lease.ALIVE or report else _shards(root, sight_s)
    state, reason = (RUNNING, "") if shards else _state(driver, progress, report)
    return {
        "directory": location,
        "state": state,
        "reason": reason,
        "run": config["run"]["id"],
        "model": config["model"]["path"],
        "task": _task(config["task"]),
        "splits": {name: config["splits"][name] for name in NAMES},
        "driver": {"state": driver.state, "host": driver.host, "pid": driver.pid},
        "shards": [{"shard": name, "host": s.host, "pid": s.pid} for name, s in shards.items()],
        "progress": progress,
        "left": _left(config, rounds, rows, progress) if driver.state == lease.ALIVE else None,
        "rounds": rounds,
        "commits": sorted(int(name) for name in (root / "commits").folders() if name.isdigit()),
        "rows": rows.by_split(),
        "best_reward": rows.best_reward,
        "set_aside": lines(root, SET_ASIDE),
        "restarts": _restarts(root, progress),
        "stop_reason": report.get("stop_reason"),
        "test": report.get("test"),
    }


def _shards(root: Storage, sight_s: float) -> dict[str, lease.Sighting]:
    """The shards that are at work, by name."""
    names = shard_leases(root)
    with ThreadPoolExecutor(max(len(names), 1)) as threads:  # each may take sight_s
        found = threads.map(lambda name: _sight(root, name, sight_s), names.values())
        return {s: one for s, one in zip(names, found, strict=True) if one.state == lease.ALIVE}


def _sight(root: Storage, name: str, sight_s: float) -> lease.Sighting:
    """Who holds the lease in a file."""
    return lease.sight(lambda: _text(root, name), sight_s)


def _state(
    driver: lease.Sighting, progress: Mapping[str, Any] | None, report: Mapping[str, Any]
) -> tuple[str, str]:
    """What the run is doing, in one word, and why."""
    if driver.state == lease.ALIVE:
        return RUNNING, ""
    if report:
        return ENDED, str(report.get("stop_reason", ""))
    if driver.state == lease.NONE and progress is not None and progress["state"] != RUNNING:
        return progress["state"], progress["reason"]
    return (SILENT if driver.state == lease.SILENT else INTERRUPTED), ""


def _left(
    config: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    rows: TableSummary,
    progress: Mapping[str, Any] | None,
) -> dict[str, float | None] | None:
    """Estimated seconds left of the phase and of the run; None where nothing was measured."""
    measured = Measured(dict(rows.seconds_each), config["ray"]["engines"])
    phase = None
    if progress is not None and progress["state"] == RUNNING:
        phase = progress["phase"]
        now = {name: split["seconds_each"] for name, split in progress["splits"].items()}
        measured = replace(measured, seconds_each={**measured.seconds_each, **now})
        if progress["engines"]:
            measured = replace(measured, engines=progress["engines"]["ready"])
    accepted = [one["accepted"] for one in rounds]
    left = {
        "phase_s": phase_left_s(phase) if phase else None,
        "run_s": run_left_s(config, accepted, rows.rows, phase, measured),
    }
    return left if any(value is not None for value in left.values()) else None


def _rounds(root: Storage) -> list[dict[str, Any]]:
    """The decided rounds in order, with what a person asks of each."""
    found = []
    for name in (root / "rounds").names("*.json"):
        content = _json(root, f"rounds/{name}")
        if content is not None:
            verdict = content["verdict"]
            found.append(
                {
                    "round": content["round"],
                    "accepted": content["accepted"],
                    "reason": content["reason"],
                    "best": content["best"],
                    "population": content["population"],
                    "support": {
                        "center": content["support"]["center"],
                        "best": content["support"]["best"]["mean"],
                    },
                    "verdict": describe_verdict(Verdict(**verdict)) if verdict else None,
                }
            )
    return sorted(found, key=lambda one: one["round"])


def _restarts(root: Storage, progress: Mapping[str, Any] | None) -> int:
    """Engines that the last driver replaced."""
    if progress is not None and progress["engines"]:
        return progress["engines"]["restarts"]
    phases = lines(root, METRICS)
    return phases[-1].get("restarts", 0) if phases else 0


def _task(task: Mapping[str, Any]) -> str:
    known = {one.name: task[one.name] for one in fields(TaskConfig)}
    return configuration.task_name(configuration.task_settings(TaskConfig(**known)))


def _config(root: Storage) -> dict[str, Any]:
    """The stored configuration; settings that it lacks have their defaults."""
    text = _text(root, "config.yaml")
    try:
        stored = OmegaConf.to_container(OmegaConf.create(text or "{}"))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"config.yaml: {' '.join(str(error).split())}") from error
    return _over(configuration.to_dict(Config()), stored)


def _over(defaults: Mapping[str, Any], given: Any) -> dict[str, Any]:
    content = dict(defaults)
    for key, value in given.items() if isinstance(given, Mapping) else ():
        known = content.get(key)
        content[key] = _over(known, value) if isinstance(known, Mapping) else value
    return content


def _text(root: Storage, name: str) -> str | None:
    try:
        return root.read_text(name)
    except FileNotFoundError:
        return None


def _json(root: Storage, name: str) -> dict[str, Any] | None:
    """A whole JSON file's content, None while there is none."""
    text = _text(root, name)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: not JSON ({error})") from error
