"""Results as Markdown tables, and their place in a page that people wrote around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corp_ray.errors import ConfigError

MARK = "results"
_SIDES = ("base", "best_single", "ungated")  # of answers


def tables(results: Mapping[str, Any]) -> str:
    """The tables of `results.collect` as Markdown."""
    return "\n\n".join((_summary(results), _by_run(results), _by_method(results)))


def pairs(results: Mapping[str, Any], name: str, against: str) -> str:
    """The table of `results.pair` as Markdown; `name` and `against` head its columns."""
    rows = [
        (
            *place,
            *(f"{one[key]:.3f}" for key in ("base", "mean", "against")),
            f"{100 * one['difference']:+.1f}",
        )
        for place, one in zip(_places(results["rows"]), results["rows"], strict=True)
    ]
    amounts = [
        _amount(results[f"mean_{key}"])
        for key in ("gain_over_base", "gain_of_the_other", "difference")
    ]
    rows.append(("mean gain over the base ± standard error", "", "", *amounts))
    return _table(("task", "seed", "base", name, against, "difference, points"), rows)


def structures(results: Mapping[str, Any]) -> str:
    """The table of `results.structure` as Markdown."""
    rows = []
    for place, one in zip(_places(results["rows"]), results["rows"], strict=True):
        components, elite = one["components"], one["outcomes"]["elite"]
        solved = one["outcomes"]["solved_by"]
        rows.append(
            (
                *place,
                str(one["candidates"]),
                _tested(one["reliability"]),
                _tested(one["direction_cosine"]),
                "–" if components is None else _components(components),
                " / ".join(f"{100 * solved[key]:.0f}" for key in ("none", "some", "all")),
                *(_gain_from(elite, outcome) for outcome in ("wrong_format", "graded")),
            )
        )
    head = (
        "task",
        "seed",
        "candidates",
        "reliability (95 % of chance)",
        "direction cosine (95 % of chance)",
        "components; share of the first (95 % of chance)",
        "% solved by none / some / all",
        "elite's points from format",
        "from answers",
    )
    return _table(head, rows)


def _tested(one: Mapping[str, float] | None) -> str:
    return "–" if one is None else f"{one['value']:.2f} ({one['null_p95']:.2f})"


def _components(found: Mapping[str, Any]) -> str:
    """How many, "+" for structure beyond them, and the first one's share of squares with its null."""
    count, rest = found["significant"], found["remainder"]
    more = count == found["most"] or (rest is not None and rest["p_value"] <= found["alpha"])
    return f"{count}{' +' if more else ''}; {_tested(found['tests'][0])}"


def _gain_from(elite: Mapping[str, Any] | None, outcome: str) -> str:
    if elite is None:
        return "–"
    return f"{100 * elite['by_center_outcome'][outcome]['gain']:+.1f}"


def rounds_told(results: Mapping[str, Any]) -> str:
    """The table of `results.rounds` as Markdown."""
    rows = []
    for one in results["rows"]:
        counts = tuple(str(one[key]) for key in ("round", "candidates"))
        means = tuple(f"{one[key]:.3f}" for key in ("center", "best"))
        asked = ("–",) * 3
        if (gate := one["gate"]) is not None:
            asked = (
                f"{gate['fixes']} / {gate['regressions']}",
                f"{gate['p_value']:.2g}",
                f"{gate['alpha']:.2g}",
            )
        decided = "accepted" if one["accepted"] else one["reason"].replace("_", " ")
        rows.append((one["run"], *counts, *means, str(one["constructive"]), *asked, decided))
    head = (
        "run",
        "round",
        "candidates",
        "center, on support",
        "best",
        "constructive",
        "gate: fixes / regressions",
        "p",
        "level",
        "decision",
    )
    return _table(head, rows)


def rounded(results: Mapping[str, Any]) -> str:
    """The table of `results.rounding` as Markdown."""
    rows = [
        (
            one["run"],
            one["proposal"] or "–",
            "yes" if one["accepted"] else "no",
            f"{one['nominal']:.5f}",
            f"{one['ratio']:.3f}",
            f"{100 * one['changed']:.1f}",
            f"{one['cosine']:.4f}",
        )
        for one in results["rows"]
    ]
    head = (
        "run",
        "step",
        "accepted",
        "change per weight, rms",
        "after rounding / before",
        "% of weights changed",
        "cosine",
    )
    return _table(head, rows)


def answered(results: Mapping[str, Any]) -> str:
    """The table of `results_answers.answers` as Markdown: of each run the opening that gains most."""
    rows = []
    for place, one in zip(_places(results["rows"]), results["rows"], strict=True):
        lines, voters = one["openings"], one["voters"]
        most = max(lines, key=lambda line: line["ungated"]["gain"]) if lines else None
        rows.append(
            (
                *place,
                _beginning(most),
                *("–" if most is None else _begun(most[side]) for side in _SIDES),
                " / ".join(f"{voters[key]:.3f}" for key in ("mean", "best", "any")),
                *(_thoughtless(one[what]) for what in ("items", "fixes")),
            )
        )
    head = (
        "task",
        "seed",
        "beginning",
        "base: share, reward",
        "K = 1: share, reward",
        "update: share, reward",
        "voters: mean / best / any",
        "items / most frequent answer / answer in the question",
        "update's fixes, the same",
    )
    return _table(head, rows)


def _beginning(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return "–"
    if line["opening"] is None:
        return "all others"
    words = line["opening"].replace("`", "'").replace("|", "\\|") or "no text"
    return f"`{words}`"


def _begun(side: Mapping[str, Any]) -> str:
    mean = "–" if side["mean"] is None else f"{side['mean']:.3f}"
    return f"{100 * side['share']:.0f} %, {mean}"


def _thoughtless(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return "–"
    return " / ".join(str(counts[key]) for key in ("count", "common", "in_question"))


def insert(page: str, text: str, mark: str = MARK) -> str:
    """The page with `text` between its two marks. Errors: ConfigError for a page without them."""
    opening, closing = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, begin, rest = page.partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end:
        raise ConfigError(f"the page has no place for {mark}: expected {opening} ... {closing}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    marks = [" --- " if at < left else " ---: " for at in range(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(marks)}|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _places(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each row's task, without its arguments where that still tells tasks apart, and its seed."""
    tasks = {row["task"] for row in rows}
    short = {task: task.partition(" {")[0] for task in tasks}
    alike = len(set(short.values())) < len(tasks)
    return [(row["task"] if alike else short[row["task"]], str(row["seed"])) for row in rows]


def _amount(amount: Mapping[str, float | None]) -> str:
    error = amount["standard_error_points"]
    return f"{amount['points']:+.1f}" + ("" if error is None else f" ± {error:.1f}")


def _summary(results: Mapping[str, Any]) -> str:
    share = results["share_of_ensemble_gain"]["points"]
    rows = [
        ("mean gain over the base", f"{_amount(results['mean_gain_over_base'])} points"),
        (
            f"mean gain over the best single candidate (K = 1 of {results['ensemble_population']})",
            f"{_amount(results['mean_gain_over_best_single'])} points",
        ),
        (
            f"mean gain of the ensemble of {results['votes']} votes over the base",
            f"{_amount(results['mean_ensemble_gain_over_base'])} points",
        ),
        ("share of the ensemble's gain", "none to share" if share is None else f"{share:.0f} %"),
        ("runs that abstained", f"{results['abstained']} of {results['runs']}"),
    ]
    return _table(("over all runs", "mean ± standard error"), rows)


def gain_text(gain: float, low: float, high: float) -> str:
    """A gain with its interval, in points."""
    return f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _by_run(results: Mapping[str, Any]) -> str:
    rows = []
    for place, one in zip(_places(results["rows"]), results["rows"], strict=True):
        by = {row["name"]: row for row in one["rows"]}
        cells = [f"{by[name]['mean']:.3f}" for name in ("base", "best_single", "majority_vote")]
        ours = by["committed"]
        said = "abstained" if one["abstained"] else f"{ours['mean']:.3f}"
        rows.append(
            (
                *place,
                *cells,
                said,
                gain_text(ours["gain"], ours["low"], ours["high"]),
            )
        )
    head = (
        "task",
        "seed",
        "base",
        f"K = 1 of {results['ensemble_population']}",
        f"{results['votes']} votes",
        f"committed, N = {results['population']}",
        "points over base [95 %]",
    )
    return _table(head, rows)


def _by_method(results: Mapping[str, Any]) -> str:
    rows = [
        (
            one["label"],
            f"{one['mean']:.3f}",
            _amount(one["gain"]),
            f"{one['above_base']} / {one['below_base']}",
            f"{one['forward_passes']:g}",
            f"{one['generated_tokens_per_item']:.1f}",
            f"{one['search_candidates']:.0f}",
            f"{one['search_answers']:,.0f}",
        )
        for one in results["methods"]
    ]
    head = (
        "method",
        "mean reward",
        "points over base",
        "runs reliably above / below",
        "passes",
        "tokens an item",
        "candidates",
        "answers to find it",
    )
    return _table(head, rows)
