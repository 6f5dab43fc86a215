"""Look into a run's rewards: `python -m jobs.diagnose runs/ID [--round 0] [--rounding] [--json]`.

Is there structure that another half of the examples finds again, of which rank, where do gains come
from, what is left of a step after rounding? Writes report/diagnosis.json into the run directory, for
a later round report/diagnosis-<t>.json. Needs no Ray and no GPU; --rounding needs the round's center,
a model folder.
"""

import argparse
import json
import sys

from corp_ray.cli import run_job
from corp_ray.diagnosis import diagnose, file_of
from corp_ray.diagnosis_text import describe
from corp_ray.scored_run import ScoredRun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", help="a run directory, runs/ID, or its address in a storage")
    parser.add_argument("--round", type=int, default=0, help="whose population (default: 0)")
    parser.add_argument("--halvings", type=int, default=100, help="random halvings of the examples")
    parser.add_argument("--permutations", type=int, default=200, help="draws of every null")
    parser.add_argument("--seed", type=int, default=0, help="of halvings and permutations")
    parser.add_argument("--rounding", action="store_true", help="what survives of a step's change")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for --rounding")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON line")
    given = parser.parse_args()
    run = ScoredRun(given.directory)
    found = diagnose(
        run,
        given.round,
        halvings=given.halvings,
        permutations=given.permutations,
        seed=given.seed,
        rounding=given.rounding,
        threads=given.threads,
    )
    (run.root / "report").make()
    run.root.write_json(file_of(given.round), found)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else describe(found))


if __name__ == "__main__":
    run_job(main)
