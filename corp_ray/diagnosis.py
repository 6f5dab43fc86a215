"""Is there structure in a run's rewards, and where do its gains come from? `jobs/diagnose`.

From the run directory alone: no Ray, no engine. Assembles split_half.py, components.py,
outcomes.py, the statistics of every consolidation, and on request rounding.py, into one document,
report/diagnosis.json. See docs/method.md, "Diagnosis".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from corp_ray import parameters
from corp_ray.components import ALPHA, MOST, count_components, differ
from corp_ray.consolidate import Consolidation, consolidate
from corp_ray.direction import Direction, sparse_rows
from corp_ray.errors import CheckpointError, ConfigError
from corp_ray.outcomes import by_sigma, summarise_outcomes
from corp_ray.records import Evaluation
from corp_ray.scored_run import ScoredRun, population_of, rewards_of
from corp_ray.split_half import ConsolidationPoint, Products, split_half

FORMAT = "corp_ray diagnosis 1"
FILE = "report/diagnosis.json"
FEWEST = 4  # candidates, and examples
_STATISTICS = ("norm", "trace", "effective_rank", "kappa", "ess")


@dataclass(frozen=True)
class Round:
    """One round's population on support around one center; `record` is None until it is decided."""

    number: int
    candidates: tuple[Evaluation, ...]
    center: Evaluation | None
    record: Mapping[str, Any] | None

    @property
    def directions(self) -> list[Direction]:
        return [Direction(e.candidate.terms) for e in self.candidates]

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The round's best proposal as its record has it."""
        if self.record is None or self.record["best"] is None:
            return None
        return next(p for p in self.record["proposals"] if p["id"] == self.record["best"])


def file_of(round_number: int) -> str:
    """Where a round's diagnosis lies in a run directory: round 0's is the one that others read."""
    return FILE if round_number == 0 else f"report/diagnosis-{round_number}.json"


def stored(run: ScoredRun) -> dict[str, Any] | None:
    """report/diagnosis.json, where it is that of round 0 as it stands now; else None."""
    document = run.document(FILE)
    if document is None or document["round"] != 0:
        return None
    try:
        found = read_round(run, 0)
    except ConfigError:
        return None
    now = (len(found.candidates), len(found.candidates[0].rewards), found.record is not None)
    then = (document["candidates"], document["examples"], document["equals_record"] is not None)
    return document if then == now else None


def read_round(run: ScoredRun, number: int) -> Round:
    """A round as far as it is scored. Errors: ConfigError when it has too few rows to look at."""
    record = next((one for one in run.rounds() if one["round"] == number), None)
    support = run.evaluations("support")
    size = run.config["population"]["size"] if number == 0 else None
    found = population_of(support, number, size)
    if record is not None:
        members = record["support"]["constructive"]
        found = [
            e
            for e in found
            if e.candidate.id in members and e.center_digest == record["center"]["digest"]
        ]
    digests = {e.center_digest for e in found}
    if len(digests) > 1 or len({e.candidate.id for e in found}) < len(found):
        raise ConfigError(
            f"{run.address}: round {number} has rows of two populations, from before and after "
            "an extension; another round can be diagnosed"
        )
    examples = len(found[0].rewards) if found else 0
    if len(found) < FEWEST or examples < FEWEST:
        raise ConfigError(
            f"{run.address}: round {number} has {len(found)} scored candidates with {examples} "
            f"examples each; a diagnosis needs {FEWEST} of both"
        )
    centers = [e for e in support if e.candidate.kind == "center" and e.center_digest in digests]
    return Round(number, tuple(found), centers[0] if centers else None, record)


def chosen_point(
    settings: Mapping[str, Any], best: Mapping[str, Any] | None
) -> tuple[float, float]:
    """(quantile, inverse temperature) of the best proposal, else the middle of the grid."""
    if best is not None:
        return best["quantile"], best["inverse_temperature"]
    quantiles, betas = settings["quantiles"], settings["inverse_temperatures"]
    return float(quantiles[len(quantiles) // 2]), float(betas[len(betas) // 2])


def consolidations_of(
    found: Round, settings: Mapping[str, Any]
) -> dict[tuple[float, float], Consolidation]:
    """Every consolidation of the grid, computed anew from the table."""
    means_N = [e.mean for e in found.candidates]
    return {
        (float(quantile), float(beta)): consolidate(
            found.directions,
            means_N,
            quantile=quantile,
            inverse_temperature=beta,
            rank=settings["rank"],
            compatibility=settings["compatibility"],
        )
        for quantile in settings["quantiles"]
        for beta in settings["inverse_temperatures"]
    }


def _rows(results: Mapping[tuple[float, float], Consolidation]) -> list[dict[str, Any]]:
    return [
        {
            "quantile": quantile,
            "inverse_temperature": beta,
            "elite": len(c.elite),
            **{name: float(getattr(c, name)) for name in _STATISTICS},
        }
        for (quantile, beta), c in results.items()
    ]


def equals_record(
    rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any] | None
) -> bool | None:
    """Whether recomputed statistics are those that the round wrote; None without a record."""
    if record is None:
        return None
    written = record["consolidations"]
    return len(rows) == len(written) and all(
        all(row[name] == one[name] for name in ("quantile", "inverse_temperature", "elite"))
        and all(np.isclose(row[name], one[name], rtol=1e-9, atol=0) for name in _STATISTICS)
        for row, one in zip(rows, written, strict=True)
    )


def _split_half(
    rewards_NE: np.ndarray,
    directions: Sequence[Direction],
    at: ConsolidationPoint,
    halvings: int,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """The split-half analysis and the count of components; all None, with the reason, for rewards
    that do not differ between candidates."""
    empty = dict.fromkeys(("reliability", "direction_cosine", "subspace_overlap", "components"))
    if not differ(rewards_NE):
        return {**empty, "undefined": "no example's reward differs between candidates"}
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2)]
    halves = split_half(
        rewards_NE,
        Products(sparse_rows(directions)),
        at,
        halvings=halvings,
        permutations=permutations,
        most_rank=MOST,
        rng=streams[0],
    )
    parts = count_components(rewards_NE, permutations=permutations, rng=streams[1])
    shares = zip(parts.tests, parts.shares, strict=True)
    return {
        "undefined": None,
        "reliability": asdict(halves.reliability),
        "direction_cosine": asdict(halves.direction_cosine),
        "subspace_overlap": [
            {"rank": rank, **asdict(one)} for rank, one in enumerate(halves.subspace_overlap, 1)
        ],
        "subspace_halvings": halves.subspace_halvings,
        "components": {
            "significant": parts.significant,
            "alpha": ALPHA,
            "most": MOST,
            "low_rank": parts.low_rank,
            "statement": parts.statement,
            "tests": [
                {"component": number, "share": share, **asdict(one)}
                for number, (one, share) in enumerate(shares, 1)
            ],
            "remainder": asdict(parts.remainder) if parts.remainder else None,
        },
    }


def diagnose(
    run: ScoredRun,
    round_number: int = 0,
    *,
    halvings: int = 100,
    permutations: int = 200,
    seed: int = 0,
    rounding: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """The diagnosis of a round as plain data fit for JSON; the same for the same seed.

    `rounding` reads the weights of the round's center. Errors: ConfigError for fewer than 4
    candidates or examples, too few permutations or halvings; CheckpointError for missing weights.
    """
    if halvings < 1 or permutations < round(1 / ALPHA) - 1 or seed < 0:
        raise ConfigError(
            f"halvings={halvings}, permutations={permutations}, seed={seed}: expected at least 1, "
            f"{round(1 / ALPHA) - 1} and 0"
        )
    found = read_round(run, round_number)
    settings = run.config["consolidation"]
    rewards_NE = rewards_of(found.candidates)
    quantile, beta = chosen_point(settings, found.best)
    at = ConsolidationPoint(quantile, beta, settings["compatibility"])
    results = consolidations_of(found, settings)
    rows = _rows(results)
    elite = [found.candidates[i] for i in results[quantile, beta].elite]
    # Thousands of small decompositions: threads of BLAS would only wait for each other.
    with threadpool_limits(1, "blas"):
        structure = _split_half(rewards_NE, found.directions, at, halvings, permutations, seed)
    document = {
        "format": FORMAT,
        "round": round_number,
        "candidates": rewards_NE.shape[0],
        "examples": rewards_NE.shape[1],
        "halvings": halvings,
        "permutations": permutations,
        "seed": seed,
        "quantile": quantile,
        "inverse_temperature": beta,
        "center": found.center.mean if found.center else None,
        **structure,
        "consolidations": rows,
        "equals_record": equals_record(rows, found.record),
        "sigmas": by_sigma(found.candidates),
        "outcomes": summarise_outcomes(found.candidates, found.center, elite),
        "rounding": None,
    }
    if rounding:
        document["rounding"] = _rounding(run, found, results[quantile, beta].mean, threads)
    return document


def _center_folder(run: ScoredRun, found: Round) -> Path:
    """The local folder of the round's center. Errors: CheckpointError; ConfigError elsewhere."""
    origin = next((one["center"]["digest"] for one in run.rounds() if one["round"] == 0), None)
    if found.record is None or found.record["center"]["digest"] == origin:
        return parameters.resolve(run.config["model"]["path"])
    folder = run.root / "commits" / PurePosixPath(found.record["center"]["path"]).name
    if folder.local is None:
        raise ConfigError(f"{folder}: the rounding of a step needs the center in a local folder")
    return folder.local


def _rounding(run: ScoredRun, found: Round, mean: Direction, threads: int) -> dict[str, Any]:
    """What rounding leaves of the best proposal at its step, else of the mean direction."""
    from corp_ray.checkpoint import folder_digest  # torch, which nothing else here needs
    from corp_ray.rounding import rounding_rows

    if found.record is None and found.number > 0:
        raise ConfigError(f"round {found.number} is not decided: it has no step to look at yet")
    folder, dtype = _center_folder(run, found), run.config["model"]["dtype"]
    specs = parameters.read_specs(folder)
    wanted = run.config["perturb"]
    names = set(parameters.perturbed_names(specs, wanted["include"], wanted["exclude"]))
    digest = folder_digest(folder, dtype, threads=threads)
    if digest != found.candidates[0].center_digest:
        raise CheckpointError(
            f"{folder}: weights {digest[:12]}..., the round's center had "
            f"{found.candidates[0].center_digest[:12]}..."
        )
    step = float(found.best["step"]) if found.best else 1.0
    direction = mean.scale(step)
    rows, total = rounding_rows(
        folder, [s for s in specs if s.name in names], dtype, direction, threads=threads
    )
    return {
        "proposal": found.best["id"] if found.best else None,
        "accepted": bool(found.record and found.record["accepted"]),
        "dtype": dtype,
        "step": step,
        "norm": direction.norm,
        "rows": rows,
        "total": total,
    }
