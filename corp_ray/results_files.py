"""Where results come from and go to: documents of run directories, a JSON file, a page's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corp_ray.diagnosis import diagnose, stored
from corp_ray.errors import ConfigError
from corp_ray.results_text import MARK, insert
from corp_ray.scored_run import ScoredRun
from corp_ray.status import read_status
from corp_ray.storage import Storage


def comparisons_of(addresses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every run's comparison by its address. Errors: ConfigError for a run without one."""
    found = {}
    for address in addresses:
        document = ScoredRun(address).document("report/compare.json")
        if document is None:
            raise ConfigError(f"{address}: no report/compare.json; jobs.compare makes it")
        found[address] = document
    return found


def diagnoses_of(addresses: Sequence[str]) -> list[tuple[str, int, dict[str, Any]]]:
    """Task, seed and diagnosis of every run's first round; one without is diagnosed."""
    found = []
    for address in addresses:
        run = ScoredRun(address)
        diagnosis = stored(run) or diagnose(run)
        found.append((read_status(address)["task"], run.config["run"]["seed"], diagnosis))
    return found


def rounds_of(addresses: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Run id and record of every run's decided rounds, in order."""
    runs = [ScoredRun(address) for address in addresses]
    return [(run.config["run"]["id"], record) for run in runs for record in run.rounds()]


def roundings_of(addresses: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Run id and what its diagnosis of round 0 says of rounding. Errors: ConfigError without one."""
    found = []
    for address in addresses:
        run = ScoredRun(address)
        diagnosis = stored(run)
        if not diagnosis or not diagnosis["rounding"]:
            raise ConfigError(f"{address}: no rounding; jobs.diagnose {address} --rounding says it")
        found.append((run.config["run"]["id"], diagnosis["rounding"]))
    return found


def write(
    results: Mapping[str, Any], text: str, *, json: str | None, page: str | None, mark: str = MARK
) -> None:
    """Results into a JSON file and their table between a page's marks, where they are named.

    Errors: ConfigError for a page that is not there or lacks the marks; nothing is written then.
    """
    whole = ""
    if page:
        if not Path(page).is_file():
            raise ConfigError(f"--page {page}: no such file")
        whole = insert(Path(page).read_text("utf-8"), text, mark)
    if json:
        Storage.open(Path(json).parent).write_json(Path(json).name, results)
    if page:
        Storage.open(Path(page).parent).write_text(Path(page).name, whole)
