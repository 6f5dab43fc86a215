"""Several runs as one table: `python -m jobs.results runs/A runs/B --json results.json`.

Of each run's report/compare.json (jobs.compare makes it). `--against` sets a row of the runs against
one of others, or of themselves, on the same tasks, seeds and items, such as an ablation:
`python -m jobs.results runs/A --against runs/A --rows ungated reward_softmax`. `--page` puts a table
between the marks of a Markdown page. Needs no Ray.
"""

import argparse
import sys

from corp_ray.cli import run_job
from corp_ray.results import collect, pair
from corp_ray.results_files import comparisons_of, write
from corp_ray.results_kinds import KINDS
from corp_ray.results_text import MARK, pairs, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run directories")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--against", nargs="+", default=(), help="run directories to compare with")
    for name, one in KINDS.items():
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=one, help=one.about)
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
    if given.kind:
        results = given.kind.collect(given.runs)
        text = given.kind.tell(results)
    elif given.against:
        results = pair(comparisons_of(given.runs), comparisons_of(given.against), *given.rows)
        text = pairs(results, *(given.names or given.rows))
    else:
        results = collect(comparisons_of(given.runs))
        text = tables(results)
    write(results, text, json=given.json, page=given.page, mark=given.mark)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    run_job(main)
