"""A round's candidates: isotropic around the base, or low rank plus an isotropic floor.

Prefix-stable: candidate k of round t depends on (run seed, t, k) and the round's distribution
alone, so a larger population extends a scored one. See docs/method.md, "Population".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from corp_ray import noise
from corp_ray.direction import Direction, sparse_rows
from corp_ray.records import Candidate

Found = TypeVar("Found")


@dataclass(frozen=True)
class Subspace:
    """Unit principal directions with their eigenvalues, descending: where good candidates spread."""

    axes: tuple[Direction, ...]
    eigenvalues: tuple[float, ...]


def candidate_hash(run_seed: int, round_number: int, index: int) -> tuple[int, int]:
    """(seed, pick): a 63-bit noise seed and a 64-bit number for choosing from a list."""
    label = f"corp_ray population 1\n{run_seed}\n{round_number}\n{index}"
    digest = hashlib.sha256(label.encode()).digest()
    seed = int.from_bytes(digest[:8], "little") & noise.MAX_SEED
    return seed, int.from_bytes(digest[8:16], "little")


def candidate_id(round_number: int, index: int) -> str:
    return f"r{round_number}c{index}"


def number_of(identifier: str) -> int:
    """The index in `candidate_id`."""
    return int(identifier.rpartition("c")[2])


def in_order(found: Iterable[tuple[str, Found]], size: int | None = None) -> list[Found]:
    """What belongs to candidates, by their identifiers, in the population's order.

    `size`: of the first so many candidates alone; a table may hold a larger population's too.
    """
    numbered = [(number_of(identifier), one) for identifier, one in found]
    numbered.sort(key=lambda pair: pair[0])
    return [one for number, one in numbered if size is None or number < size]


def isotropic(run_seed: int, start: int, stop: int, sigmas: Sequence[float]) -> list[Candidate]:
    """Candidates start..stop of round 0: {seed_k: sigma_k}, sigma_k drawn from `sigmas`."""
    candidates = []
    for index in range(start, stop):
        seed, pick = candidate_hash(run_seed, 0, index)
        sigma = sigmas[pick % len(sigmas)]
        candidates.append(
            Candidate(candidate_id(0, index), "candidate", 0, ((seed, sigma),), sigma=sigma)
        )
    return candidates


def low_rank(
    run_seed: int,
    round_number: int,
    start: int,
    stop: int,
    *,
    sigma: float,
    isotropic_share: float,
    subspace: Subspace | None,
    rank: int,
) -> list[Candidate]:
    """Candidates start..stop of a later round, each of expected squared norm sigma^2.

    x = sigma sqrt(L) axis(new seed) + sigma sqrt(1 - L) sum_j sqrt(l_j / sum l) g_j d_j over the
    leading `rank` axes, L the isotropic share, g standard normal from the candidate's own seed.
    Without a subspace (None, or no spread in it) the candidates are isotropic.
    """
    used = list(zip(subspace.axes, subspace.eigenvalues, strict=True))[:rank] if subspace else []
    used = [(axis, eigenvalue) for axis, eigenvalue in used if eigenvalue > 0]
    total = math.fsum(eigenvalue for _, eigenvalue in used)
    floor = isotropic_share if used else 1.0
    axes = sparse_rows(axis for axis, _ in used)
    axes_RS, seeds = axes.dense(), axes.seeds.tolist()
    candidates = []
    for index in range(start, stop):
        seed, _ = candidate_hash(run_seed, round_number, index)
        draws = noise.gaussian(seed, "corp_ray/population/subspace", 0, rank).astype(np.float64)
        shared_S = np.zeros(len(seeds))
        for axis_S, (_, eigenvalue), g in zip(axes_RS, used, draws, strict=False):
            shared_S += axis_S * (sigma * math.sqrt((1 - floor) * eigenvalue / total) * float(g))
        own = seed, sigma * math.sqrt(floor)
        x = Direction([own, *zip(seeds, shared_S.tolist(), strict=True)])
        name = candidate_id(round_number, index)
        candidates.append(Candidate(name, "candidate", round_number, x.terms, sigma=sigma))
    return candidates
