"""Several runs' comparisons as one table: `python -m jobs.results runs/A runs/B --json results.json`.

Reads each run's report/compare.json (jobs.compare makes it). With `--against` a row of the runs is
set against one of others, or of themselves, on the same tasks, seeds and items, such as an
ablation: `python -m jobs.results runs/A --against runs/A --rows ungated reward_softmax`. With
`--structure` the table is of the first rounds' populations: report/diagnosis.json of jobs.diagnose,
or where that is not there what it would say. With `--answers` it is of how answers to the test items
begin, and of what the voters solve; with `--rounds` of what each decided round found. `--page` puts
the tables between the marks of a Markdown page. Needs no Ray.
"""

import argparse
import sys

from corp_ray.cli import run_job
from corp_ray.results import collect, pair, rounds, structure
from corp_ray.results_answers import answers
from corp_ray.results_files import comparisons_of, diagnoses_of, rounds_of, write
from corp_ray.results_text import MARK, answered, pairs, rounds_told, structures, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run directories")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--against", nargs="+", default=(), help="run directories to compare with")
    kind.add_argument("--structure", action="store_true", help="the populations' diagnoses")
    kind.add_argument("--answers", action="store_true", help="how answers begin, from the rows")
    kind.add_argument("--rounds", action="store_true", help="what each decided round found")
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
    if given.structure:
        results = structure(diagnoses_of(given.runs))
        text = structures(results)
    elif given.answers:
        results = answers(given.runs)
        text = answered(results)
    elif given.rounds:
        results = rounds(rounds_of(given.runs))
        text = rounds_told(results)
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
