"""Several runs' comparisons as one table: `python -m jobs.results runs/A runs/B --json results.json`.

Reads each run's report/compare.json (jobs.compare makes it). With `--against` a row of the runs is
set against one of others, or of themselves, on the same tasks, seeds and items, such as an
ablation: `python -m jobs.results runs/A --against runs/A --rows ungated reward_softmax`. `--page`
puts the tables between the marks of a Markdown page. Needs no Ray.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corp_ray.cli import run_job
from corp_ray.errors import ConfigError
from corp_ray.results import collect, pair
from corp_ray.results_text import MARK, insert, pairs, tables
from corp_ray.scored_run import ScoredRun
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run directories with a comparison")
    parser.add_argument("--against", nargs="+", default=(), help="run directories to compare with")
    parser.add_argument(
        "--rows",
        nargs=2,
        default=("committed", "committed"),
        metavar=("ROW", "ROW"),
        help="which row of the runs, and which of those in --against (committed)",
    )
    parser.add_argument(
        "--names", nargs=2, metavar=("NAME", "NAME"), help="what --page calls the two (their rows)"
    )
    parser.add_argument("--json", help="where all rows go, as JSON")
    parser.add_argument("--page", help="a Markdown page with <!-- MARK: begin --> and end")
    parser.add_argument("--mark", default=MARK, help=f"the name of the page's marks ({MARK})")
    given = parser.parse_args()
    ours = comparisons_of(given.runs)
    if given.against:
        results = pair(ours, comparisons_of(given.against), *given.rows)
        text = pairs(results, *(given.names or given.rows))
    else:
        results = collect(ours)
        text = tables(results)
    if given.page:
        page = Path(given.page)
        if not page.is_file():
            raise ConfigError(f"--page {given.page}: no such file")
        whole = insert(page.read_text("utf-8"), text, given.mark)
        Storage.open(page.parent).write_text(page.name, whole)
    if given.json:
        target = Path(given.json)
        Storage.open(target.parent).write_json(target.name, results)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    run_job(main)
