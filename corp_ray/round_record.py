"""What a round leaves: rounds/<t>.json, and its verdict as one line for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from corp_ray.consolidate import Consolidation
from corp_ray.proposals import Decision, GridPoint
from corp_ray.recenter import SearchState
from corp_ray.records import Center, Proposal, Verdict


def describe_verdict(verdict: Verdict) -> str:
    """The gate's decision with its numbers, one line."""
    return (
        f"gate, look {verdict.look}: {'accepted' if verdict.accepted else 'rejected'} "
        f"({verdict.reason}); gain {100 * verdict.mean:+.1f} points on {verdict.examples} items, "
        f"standard error {100 * verdict.standard_error:.1f}, lower bound {100 * verdict.lower:+.1f} "
        f"at alpha {verdict.alpha:.3g} ({verdict.test}, p = {verdict.p_value:.2g}), "
        f"{verdict.fixes} fixes, {verdict.regressions} regressions"
    )


def round_record(
    center: Center,
    state: SearchState,
    population: int,
    center_mean: float,
    means: Mapping[str, float],
    scores: Sequence[float],
    consolidations: dict[GridPoint, Consolidation],
    proposals: Sequence[Proposal],
    decision: Decision,
    following: SearchState,
) -> dict:
    """What rounds/<t>.json holds: `means` and `scores` of those of the population that could be
    scored, by candidate id."""
    best = max(means, key=lambda candidate: means[candidate])
    return {
        "round": state.round,
        "center": {"path": center.path, "digest": center.digest},
        "population": population,
        "set_aside": population - len(means),
        "sigma": state.sigma,
        "isotropic_share": state.isotropic_share,
        "support": {
            "center": center_mean,
            "best": {"id": best, "mean": means[best]},
            "constructive": dict(zip(means, scores, strict=True)),
        },
        "consolidations": [
            {
                "quantile": quantile,
                "inverse_temperature": beta,
                "elite": len(c.elite),
                "threshold": c.threshold,
                "norm": c.norm,
                "trace": c.trace,
                "effective_rank": c.effective_rank,
                "kappa": c.kappa,
                "ess": c.ess,
                "entropy": c.cloud.entropy,
                "largest_weight": c.cloud.largest_weight,
                "eigenvalues": [float(e) for e in c.eigenvalues[:16]],
            }
            for (quantile, beta), c in consolidations.items()
        ],
        "proposals": [
            {
                "id": p.candidate.id,
                "quantile": p.quantile,
                "inverse_temperature": p.inverse_temperature,
                "step": p.step,
                "validation": p.validation_mean,
            }
            for p in proposals
        ],
        "best": decision.best.candidate.id if decision.best else None,
        "reason": decision.reason,
        "accepted": decision.accepted,
        "verdict": asdict(decision.verdict) if decision.verdict else None,
        "next": {
            "sigma": following.sigma,
            "isotropic_share": following.isotropic_share,
            "subspace_rank": len(following.subspace.axes) if following.subspace else 0,
        },
    }
