"""A run's state from its directory alone: `python -m jobs.status runs/demo [--json] [--watch]`.

Also while it runs elsewhere. Needs no Ray and never writes.
"""

import argparse
import json
import shutil
import sys
import time
from typing import Any

from corp_ray.cli import run_job
from corp_ray.progress import RUNNING
from corp_ray.status import read_status
from corp_ray.status_text import describe

EVERY_S = 3.0


def show(status: dict[str, Any], as_json: bool, clear: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(status) + "\n")
    else:
        plain = not (sys.stdout.encoding or "").lower().startswith("utf")
        width = min(shutil.get_terminal_size((80, 24)).columns, 100)
        # Home, then clear what follows each line and the rest: no flicker.
        text = describe(status, width=width, ascii_only=plain)
        if clear:
            text = "\033[H" + text.replace("\n", "\033[K\n") + "\033[J"
        sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", help="a run directory, runs/ID, or its address in a storage")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON line")
    parser.add_argument(
        "--watch", action="store_true", help="again every few seconds while it runs"
    )
    given = parser.parse_args()
    clear = given.watch and not given.json and sys.stdout.isatty()
    if clear:
        sys.stdout.write("\033[2J")
    while True:
        status = read_status(given.directory)
        show(status, given.json, clear)
        if not given.watch or status["state"] != RUNNING:
            return
        time.sleep(EVERY_S)


if __name__ == "__main__":
    run_job(main)
