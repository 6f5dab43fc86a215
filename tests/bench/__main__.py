"""Run every measurement, print a table, write build/bench.json. Ratio above 1: ours is better.

`python -m tests.bench [--model FOLDER] [--threads 1] [--out build/bench.json]`; the folder can
also be named by CORP_BENCH_MODEL. Without one the weights are random, in SmolLM2-135M's shapes.
"""

import argparse
import json
import os
from pathlib import Path

from tests.bench import driver, grading, rows, sandbox, scheduling
from tests.bench.model import bfloat16_weights


def shown(value, unit):
    scaled = {
        "values/s": (1e6, "M/s"),
        "answers/s": (1, "/s"),
        "bytes": (1e6, "MB"),
        "s": (1, "s"),
        "ms": (1, "ms"),
        "share": (0.01, "%"),
        "programs/s": (1, "/s"),
    }
    factor, short = scaled[unit]
    return (
        f"{value / factor:,.3g} {short}"
        if value / factor < 100
        else f"{value / factor:,.0f} {short}"
    )


def measured(folder, threads):
    """(row, what was compared) one by one, in the order of the table."""
    if folder:
        yield rows.actor_peak_memory(folder)  # first: while this process is still small
    yield rows.noise_values_per_s()
    yield grading.numeric_answers()
    yield from scheduling.bench_rows()
    yield driver.table_load()
    yield driver.consolidate_large()
    programs = sandbox.sandbox_programs()
    if programs:
        yield programs
    else:
        print(f"{'sandbox_programs':<24} left out: no {sandbox.DATA}")
    pristine = bfloat16_weights(folder)
    yield rows.apply_candidate(pristine, threads)
    yield from rows.sweep_materialise(pristine, threads)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--model", default=os.environ.get("CORP_BENCH_MODEL", ""))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    weights_of = arguments.model or "random weights of SmolLM2-135M's shapes"
    print(f"{weights_of}, {arguments.threads} thread(s), medians of interleaved runs\n")
    print(f"{'':<24} {'ours':>11} {'other':>11} {'ratio':>7}  compared")
    listed = []
    for row, compared in measured(arguments.model, arguments.threads):
        ours, other = (shown(row[key], row["unit"]) for key in ("ours", "other"))
        print(
            f"{row['name']:<24} {ours:>11} {other:>11} {row['ratio']:>6.2f}x  {compared}",
            flush=True,
        )
        listed.append(row)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.out.with_suffix(".tmp")
    beside.write_text(json.dumps(listed, indent=1) + "\n")
    beside.replace(arguments.out)


if __name__ == "__main__":
    main()
