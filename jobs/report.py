"""A run's report as one page: `python -m jobs.report runs/demo [--output DIR]`.

Any time: while the run works, after it was interrupted, when it has ended. It reads the run's
directory alone, here or in a storage. Needs no Ray.
"""

import argparse
import sys

from corp_ray.cli import run_job
from corp_ray.report import make_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", help="a run directory, runs/ID, or its address in a storage")
    parser.add_argument("--output", metavar="DIR", help="where to write; default: its report/")
    given = parser.parse_args()
    sys.stdout.write(make_report(given.directory, given.output) + "\n")


if __name__ == "__main__":
    run_job(main)
