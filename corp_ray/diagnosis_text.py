"""A diagnosis as text for a terminal, from what diagnosis.py has found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 5  # consolidations, of the largest concentration


def describe(found: Mapping[str, Any]) -> str:
    """The whole diagnosis, a block of lines per question."""
    blocks = (_head(found), _structure(found), _sigmas(found), _consolidations(found))
    more = (_outcomes(found["outcomes"], found["center"]), _rounding(found["rounding"]))
    return (
        "\n\n".join("\n".join(block) for block in (*map(list, blocks), *map(list, more)) if block)
        + "\n"
    )


def _head(found: Mapping[str, Any]) -> Iterator[str]:
    center = "not scored yet" if found["center"] is None else f"{found['center']:.3f}"
    yield (
        f"round {found['round']}: {found['candidates']} candidates, {found['examples']} examples, "
        f"center {center}"
    )


def _tested(one: Mapping[str, float]) -> str:
    return (
        f"{one['value']:6.3f}   chance {one['null_mean']:6.3f}, 95 % {one['null_p95']:6.3f}   "
        f"p = {one['p_value']:.3f}"
    )


def _structure(found: Mapping[str, Any]) -> Iterator[str]:
    if found["undefined"]:
        yield f"split halves: not defined, {found['undefined']}"
        return
    components = found["components"]
    yield (
        f"structure that another half of the examples finds again ({found['halvings']} halvings, "
        f"{found['permutations']} permutations)"
    )
    yield f"  reliability of mean rewards   {_tested(found['reliability'])}"
    yield (
        f"  cosine of directions          {_tested(found['direction_cosine'])}   "
        f"(quantile {found['quantile']:g}, beta {found['inverse_temperature']:g})"
    )
    for one in found["subspace_overlap"]:
        yield f"  overlap of subspaces, rank {one['rank']}  {_tested(one)}"
    yield f"components, one after the other at {components['alpha']:g}: {components['statement']}"
    for one in components["tests"]:
        yield f"  component {one['component']}, of what is left {_tested(one)}"
    if components["remainder"]:
        yield f"  all that is left beyond them  {_tested(components['remainder'])}"


def _sigmas(found: Mapping[str, Any]) -> Iterator[str]:
    yield "reward against sigma"
    yield "  sigma        n    mean      sd   top half    best"
    for one in found["sigmas"]:
        yield (
            f"  {one['sigma']:<8.3g} {one['candidates']:5}  {one['mean']:6.3f}  {one['sd']:6.3f}  "
            f"{one['top_half_mean']:9.3f}  {one['best']:6.3f}"
        )


def _consolidations(found: Mapping[str, Any]) -> Iterator[str]:
    rows = sorted(found["consolidations"], key=lambda one: -one["kappa"])
    said = {True: ", equal to the round's record", False: ", NOT equal to the round's record"}
    check = said.get(found["equals_record"], "")
    yield f"consolidations: {len(rows)}{check}; the most concentrated"
    yield "  quantile   beta  elite   eff. rank    kappa     ESS      norm"
    for one in rows[:_SHOWN]:
        yield (
            f"  {one['quantile']:8g} {one['inverse_temperature']:6g} {one['elite']:6} "
            f"{one['effective_rank']:11.1f} {one['kappa']:8.3g} {one['ess']:7.1f}  {one['norm']:8.3g}"
        )


def _outcomes(outcomes: Mapping[str, Any], center: float | None) -> Iterator[str]:
    solved, counts = outcomes["solved_by"], outcomes["counts"]
    total = sum(counts.values())
    yield (
        f"examples that no candidate solves {solved['none']:.1%}, some {solved['some']:.1%}, "
        f"all {solved['all']:.1%}"
    )
    yield "answers: " + ", ".join(
        f"{name.replace('_', ' ')} {count / total:.1%}" for name, count in counts.items()
    )
    if center is None:
        return
    best, elite = outcomes["best"], outcomes["elite"]
    for name, gain in (
        (f"best ({best['id']})", best),
        (f"elite of {elite['candidates']}, mean", elite),
    ):
        yield f"{name}: {100 * gain['gain']:+.1f} points over the center, from answers that it had"
        for outcome, part in gain["by_center_outcome"].items():
            yield (
                f"  {outcome.replace('_', ' '):15}{100 * part['gain']:+6.1f} points, "
                f"{part['fixes']:.1f} fixes, {part['regressions']:.1f} regressions "
                f"of {part['examples']}"
            )


def _rounding(rounding: Mapping[str, Any] | None) -> Iterator[str]:
    if rounding is None:
        return
    what = rounding["proposal"] or "the mean direction"
    yield f"rounding of {what} at step {rounding['step']:g} to {rounding['dtype']}"
    yield "  change per weight: meant      made   ratio  changed  cosine"
    rows = sorted(rounding["rows"], key=lambda one: one["cosine"])
    for one in (*rows[:_SHOWN], rounding["total"]):
        yield (
            f"  {'':17}{one['nominal']:9.3g} {one['realised']:9.3g}  {one['ratio']:6.3f}  "
            f"{one['changed']:6.1%}   {one['cosine']:6.4f}  {one['name']}"
        )
