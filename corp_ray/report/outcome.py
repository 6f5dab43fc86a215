"""What a run came to on held-out questions: the summary table, and answers before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from corp_ray.gate import paired_interval
from corp_ray.outcomes import openings
from corp_ray.records import Evaluation
from corp_ray.report.members import Row, decided_by, of_round
from corp_ray.scored_run import ScoredRun

SHOWN = 10
# What a line of the table may lack: compare.json knows more than test.json.
_NUMBERS = ("mean", "gain", "low", "high", "fixes", "regressions", "forward_passes")
_LATER = ("generated_tokens_per_item", "gain_over_best_single", "search", "chosen", "vote")
_LINE: dict[str, Any] = dict.fromkeys((*_NUMBERS, *_LATER, "abstained", "note"))
# A model beside itself has no gain.
_REFERENCE: dict[str, dict[str, Any]] = {
    "base": dict.fromkeys(("gain", "low", "high", "fixes", "regressions")),
    "best_single": {"gain_over_best_single": None},
}
_LABELS = {"base": "Base", "best single": "Best single candidate", "committed": "Committed model"}


def summary(
    run: ScoredRun, rows: Sequence[Row], rounds: Sequence[Row], answered: Mapping[str, Evaluation]
) -> dict[str, Any] | None:
    """The test table: report/compare.json's rows where there is one, else report/test.json's with
    what the reward table adds (`answered`: see `tested_rows`). None before the test split was
    judged."""
    compared = run.document("report/compare.json")
    if compared is not None:
        names = ("split", "examples", "population", "ensemble_population", "votes")
        lines = [_LINE | one | _REFERENCE.get(one["name"], {}) for one in compared["rows"]]
        # A comparison may have been made without the run, which was decided after it.
        if "committed" not in {one["name"] for one in lines}:
            own = _tested(run, rows, rounds, answered)
            lines += [one for one in own["rows"] if one["name"] == "committed"] if own else []
        return {
            "source": "report/compare.json",
            **{name: compared.get(name) for name in names},
            "rows": lines,
        }
    return _tested(run, rows, rounds, answered)


def _tested(
    run: ScoredRun, rows: Sequence[Row], rounds: Sequence[Row], answered: Mapping[str, Evaluation]
) -> dict[str, Any] | None:
    """The table of report/test.json with what the reward table adds."""
    tested = run.document("report/test.json")
    if tested is None or not tested["test"]:
        return None
    base = answered.get("base")
    searched = {
        "best single": of_round(rows, rounds[0]) if rounds else [],
        "committed": decided_by(rows, rounds),
    }
    return {
        "source": "report/test.json",
        "split": "test",
        "examples": tested["test"][0]["examples"],
        "rows": [
            _LINE
            | {
                "name": one["name"],
                "label": _LABELS.get(one["name"], one["name"]),
                "mean": one["mean"],
                **{name: one[name] for name in ("gain", "low", "high")},
                **_changes(base, answered.get(one["name"])),
                "forward_passes": 1,
                "search": _search(searched[one["name"]]) if one["name"] in searched else None,
            }
            | _REFERENCE.get(one["name"], {})
            for one in tested["test"]
        ],
    }


def _search(rows: Iterable[Row]) -> dict[str, Any]:
    """What was spent on looking for a model: directions tried, answers, tokens, engine time."""
    rows = list(rows)
    return {
        "candidates": len({(r["center"], r["id"]) for r in rows if r["kind"] != "center"}),
        "answers": sum(row["examples"] for row in rows),
        "generated_tokens": sum(row["tokens"] for row in rows),
        "engine_s": sum(row["seconds"] for row in rows),
    }


def _changes(base: Evaluation | None, other: Evaluation | None) -> dict[str, Any]:
    """Fixes and regressions against the base, and tokens of an answer, where rows are there."""
    found: dict[str, Any] = {"fixes": None, "regressions": None, "generated_tokens_per_item": None}
    if other is not None:
        found["generated_tokens_per_item"] = other.generated_tokens / len(other.rewards)
    if base is not None and other is not None and other is not base:
        delta = np.subtract(other.rewards, base.rewards)
        found["fixes"] = int(np.count_nonzero(delta > 0))
        found["regressions"] = int(np.count_nonzero(delta < 0))
    return found


def tested_rows(run: ScoredRun, rounds: Sequence[Row]) -> dict[str, Evaluation]:
    """The reward rows behind the lines of the test table, by name, as far as they are found."""
    found: dict[str, Evaluation] = {}
    table = (run.document("report/test.json") or {}).get("test", [])
    if not rounds or not table:
        return found
    origin, lines = rounds[0]["center"]["digest"], {one["name"]: one for one in table}
    rows = sorted(run.evaluations("test"), key=lambda row: (row.center_digest, row.candidate.id))
    centers = [row for row in rows if row.candidate.kind == "center"]
    base = next((row for row in centers if row.center_digest == origin), None)
    for row in rows:
        name = None
        if row.candidate.kind == "center":
            # A run that was extended has tested earlier commits too: their numbers differ.
            name = "base" if row.center_digest == origin else "committed"
        elif row.candidate.id == rounds[0]["support"]["best"]["id"]:
            name = "best single"
        if name and name in lines and base and _is_line(lines[name], base, row):
            found.setdefault(name, row)
    return found


def _is_line(line: Row, base: Evaluation, row: Evaluation) -> bool:
    """Whether a line of the test table has a row's mean, and its gain over the base with interval."""
    named = [line["mean"], *(line[name] for name in ("gain", "low", "high"))]
    own = [row.mean, *paired_interval(base.rewards, row.rewards)]
    return bool(np.allclose(named, own, rtol=0, atol=1e-12, equal_nan=True))


def _judged(run: ScoredRun, rounds: Sequence[Row]) -> tuple[Evaluation, Evaluation, Row] | None:
    """Center and proposal of the latest round that was accepted, else of the latest look."""
    looked = [one for one in rounds if one["verdict"]]
    if not looked:
        return None
    last = max(looked, key=lambda one: (one["accepted"], one["round"]))
    around = [
        row for row in run.evaluations("gate") if row.center_digest == last["center"]["digest"]
    ]
    before = [row for row in around if row.candidate.kind == "center"]
    # After an extension another direction may have been judged under the same name.
    after = [
        row
        for row in around
        if row.candidate.id == last["best"]
        and before
        and abs(row.mean - before[0].mean - last["verdict"]["mean"]) < 1e-9
    ]
    return (before[0], after[0], last) if before and after else None


def flips(
    run: ScoredRun, rounds: Sequence[Row], answered: Mapping[str, Evaluation]
) -> dict[str, Any] | None:
    """Answers that the update changed: all counted, ten of them shown.

    On the test split when a committed model was tested, else on the gate split. None before.
    """
    if "base" in answered and "committed" in answered:
        found = _flips(run, "test", answered["base"], answered["committed"])
        return found | {"before": "base", "after": "committed model"}
    judged = _judged(run, rounds)
    if judged is None:
        return None
    before, after, one = judged
    state = "accepted" if one["accepted"] else "rejected"
    return _flips(run, "gate", before, after) | {
        "before": "base" if one["round"] == 0 else f"center of round {one['round']}",
        "after": f"{state} update of round {one['round']}",
    }


def _flips(run: ScoredRun, split: str, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    delta = np.subtract(after.rewards, before.rewards)
    fixes, regressions = np.flatnonzero(delta > 0).tolist(), np.flatnonzero(delta < 0).tolist()
    questions = run.questions(split)
    shown = choose(fixes, regressions) if len(questions) == len(delta) else []
    return {
        "split": split,
        "examples": len(delta),
        "fixes": len(fixes),
        "regressions": len(regressions),
        "unchanged": len(delta) - len(fixes) - len(regressions),
        "openings": openings({"before": before, "after": after}),
        "shown": [
            {
                "change": "fix" if delta[at] > 0 else "regression",
                "position": at,
                "id": questions[at]["id"],
                "question": questions[at]["question"],
                "answer": questions[at]["answer"],
                "text_before": before.texts[at] if before.texts else None,
                "text_after": after.texts[at] if after.texts else None,
                "reward_before": before.rewards[at],
                "reward_after": after.rewards[at],
            }
            for at in shown
        ],
    }


def choose(fixes: Sequence[int], regressions: Sequence[int], count: int = SHOWN) -> list[int]:
    """The first half `count` fixes and regressions by position, more of one where the other has
    fewer; fixes first."""
    half = count // 2
    of_fixes = max(half, count - len(regressions))
    chosen = list(fixes[:of_fixes])
    return chosen + list(regressions[: count - len(chosen)])
