"""Several runs' comparisons as one table: `python -m jobs.results runs/A runs/B --json results.json`.

Reads each run's report/compare.json (jobs.compare makes it); `--page` puts the tables between the
marks of a Markdown page. Needs no Ray.
"""

import argparse
import sys
from pathlib import Path

from corp_ray.cli import run_job
from corp_ray.errors import ConfigError
from corp_ray.results import collect
from corp_ray.results_text import insert, tables
from corp_ray.scored_run import ScoredRun
from corp_ray.storage import Storage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run directories with a comparison")
    parser.add_argument("--json", help="where all rows go, as JSON")
    parser.add_argument("--page", help="a Markdown page with the marks of results_text.py")
    given = parser.parse_args()
    comparisons = {}
    for address in given.runs:
        document = ScoredRun(address).document("report/compare.json")
        if document is None:
            raise ConfigError(f"{address}: no report/compare.json; jobs.compare makes it")
        comparisons[address] = document
    results = collect(comparisons)
    text = tables(results)
    if given.page:
        page = Path(given.page)
        if not page.is_file():
            raise ConfigError(f"--page {given.page}: no such file")
        whole = insert(page.read_text("utf-8"), text)
        Storage.open(page.parent).write_text(page.name, whole)
    if given.json:
        target = Path(given.json)
        Storage.open(target.parent).write_json(target.name, results)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    run_job(main)
