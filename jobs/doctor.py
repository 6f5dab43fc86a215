"""Check a task before a GPU is used: `python -m jobs.doctor --config conf/X.yaml key=value ...`.

Loads its rows, shows three prompts as the model reads them, grades right and wrong answers, compares
the format asked for with the one graded, looks at splits, gate and lengths, and estimates tokens and
time. Starts no engine and no Ray. Exit code 2 when something would spoil a run.
"""

import sys

from corp_ray.cli import parse_config, run_job
from corp_ray.doctor import examine
from corp_ray.errors import TaskError
from corp_ray.findings import PROBLEM, WARNING

SIGN = {PROBLEM: "PROBLEM", WARNING: "warning"}


def main() -> None:
    config = parse_config(__doc__ or "")
    problems = 0
    for finding in examine(config):
        problems += finding.level == PROBLEM
        sys.stdout.write(f"{SIGN.get(finding.level, 'ok'):8}{finding.check}: {finding.text}\n")
        for line in finding.shown.splitlines():
            sys.stdout.write(f"        | {line}\n")
        sys.stdout.flush()
    if problems:
        raise TaskError(f"{problems} {'problem' if problems == 1 else 'problems'} found, see above")
    sys.stdout.write("        nothing found that would spoil a run\n")


if __name__ == "__main__":
    run_job(main)
