"""What the driver does for 100,000 candidates: loading their rewards, consolidating them."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from corp_ray.cloud import DenseMembers, DisjointMembers, cloud_statistics
from corp_ray.consolidate import consolidate, softmax
from corp_ray.direction import Direction, sparse_rows
from corp_ray.population import isotropic
from corp_ray.records import OUTCOMES, Candidate, Evaluation
from corp_ray.reward_table import RewardTable
from tests.bench import tables
from tests.bench.rows import interleaved, seconds

CANDIDATES, EXAMPLES = 100_000, 500
SMALL = tables.PART_ROWS  # rows that are read as Python numbers; the time is scaled
DENSE = 1500  # members that a dense decomposition takes seconds for
SIGMAS = (5e-4, 1e-3, 2e-3)


def as_evaluations(part):
    """Rows of a part as records with a Python number per reward."""
    return [
        Evaluation(
            Candidate(
                row["candidate_id"],
                row["kind"],
                row["round"],
                tuple(zip(row["seeds"], row["amplitudes"], strict=True)),
                row["step"],
                row["sigma"],
            ),
            row["center_digest"],
            row["split"],
            tuple(row["rewards"]),
            tuple(OUTCOMES[code] for code in row["outcomes"]),
            row["generated_tokens"],
            row["seconds"],
            row["engine"],
        )
        for row in pq.read_table(part).to_pylist()
    ]


def table_load():
    """Opening a table of 100,000 rows of 500 different rewards."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = tables.write_table(scratch, CANDIDATES, EXAMPLES, right_or_wrong=False)
        part = max(Path(scratch).iterdir(), key=lambda path: path.stat().st_size)

        def ours():
            if len(RewardTable(folder, tables.IDENTITY)) != CANDIDATES:
                raise RuntimeError("rows are missing")

        mine, of_part = interleaved(ours, lambda: as_evaluations(part), 3)
    theirs = of_part * CANDIDATES / SMALL
    row = {"name": "table_load", "ours": mine, "other": theirs, "ratio": theirs / mine, "unit": "s"}
    return row, (
        f"{CANDIDATES:,} x {EXAMPLES} rewards vs a Python number for each (to_pylist and tuples; "
        f"timed on {SMALL:,} rows, x {CANDIDATES / SMALL:.0f})"
    )


def grid_point(rewards):
    """Seconds to consolidate CANDIDATES at (0.5, 5)."""
    directions = [Direction(c.terms) for c in isotropic(0, 0, CANDIDATES, SIGMAS)]
    return seconds(
        lambda: consolidate(directions, rewards, quantile=0.5, inverse_temperature=5, rank=8)
    )


def consolidate_large():
    """The statistics of a cloud of DENSE isotropic members whose weights all differ."""
    rng = np.random.default_rng(0)
    sparse = sparse_rows(Direction(c.terms) for c in isotropic(0, 0, DENSE, SIGMAS))
    weights = softmax(5 * rng.random(DENSE))

    def ours():
        return cloud_statistics(DisjointMembers(sparse), weights, 8)

    def other():
        return cloud_statistics(DenseMembers(sparse), weights, 8)

    mine, theirs = interleaved(ours, other, 1)
    different = grid_point(rng.normal(0.3, 0.03, CANDIDATES))
    in_steps = grid_point(rng.binomial(EXAMPLES, 0.3, CANDIDATES) / EXAMPLES)
    row = {
        "name": "consolidate_large",
        "ours": mine,
        "other": theirs,
        "ratio": theirs / mine,
        "unit": "s",
        "seconds_100000_different": different,
        "seconds_100000_right_or_wrong": in_steps,
    }
    return row, (
        f"{DENSE:,} members vs their dense decomposition; {CANDIDATES:,} candidates, one grid "
        f"point: {different:.1f} s, with 0/1 rewards {in_steps:.2f} s"
    )
