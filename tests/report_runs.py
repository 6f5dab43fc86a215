"""Run directories for tests of the report: one with every section and texts that mean harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    '<img src=x onerror="window.pwned=1">',
    '" onmouseover="window.pwned=1" x="',
    "</pre></details><style>*{display:none}</style>",
    "<svg><script>window.pwned=1</script></svg> ]]> <!-- --> &lt;b&gt; &#x3c;",
    "{{ 7 * 7 }} {% raw %} ${7*7} $x^2$ \\u003cscript\\u003e",
    "שלום عالم \u202egnp.exe\u202c 数学 🧮 é\u0301 \x00\x07\x1b[31m",
    "javascript:window.pwned=1 http://example.invalid/x.png url(http://example.invalid/y)",
    "line\n" * 40,
    "x" * 20_000,
)


def hostile_run(finished: Path, target: Path) -> Path:
    """A copy of a finished run whose questions, answers, names and settings are hostile, with a
    comparison and a split-half analysis beside its test table."""
    shutil.copytree(finished, target)
    for split in ("gate", "test"):
        path = target / "questions" / f"{split}.json"
        content = json.loads(path.read_text())
        for at, one in enumerate(content["examples"]):
            one["question"] = f"{HOSTILE[at % len(HOSTILE)]} {at}"
            one["answer"] = HOSTILE[(at + 1) % len(HOSTILE)][:200]
        path.write_text(json.dumps(content))
    for part in (target / "rewards").glob("*.parquet"):
        _with_texts(part)
    config = (target / "config.yaml").read_text()
    config = config.replace("id: run", f"id: {json.dumps(HOSTILE[1])}", 1)
    (target / "config.yaml").write_text(config.replace("system_prompt: ''", "system_prompt: '<b>'"))
    (target / "report" / "compare.json").write_text(json.dumps(comparison()))
    (target / "report" / "diagnosis.json").write_text(json.dumps(diagnosis()))
    with (target / "metrics.jsonl").open("a") as lines:
        line = {"phase": HOSTILE[0], "seconds": 1.5, "rows": 2, "restarts": 0, "set_aside": 0}
        lines.write(json.dumps(line | {"time": 0.0}) + "\n")
    return target


def _with_texts(part: Path) -> None:
    table = pq.read_table(part)
    texts = [
        [f"{HOSTILE[(at + 2) % len(HOSTILE)]}{said}" for at, said in enumerate(row)]
        for row in table["texts"].to_pylist()
    ]
    at = table.schema.get_field_index("texts")
    column = pa.array(texts, table.schema.field("texts").type)
    pq.write_table(table.set_column(at, table.schema.field("texts"), column), part)


def comparison() -> dict:
    """What jobs.compare leaves, with a line of every kind."""
    search = {"candidates": 24, "answers": 2880, "generated_tokens": 9000, "engine_s": 4000.5}
    plain = {
        "gain_over_best_single": {"gain": 0.05, "low": -0.01, "high": 0.11},
        "forward_passes": 1,
        "generated_tokens_per_item": 7.25,
        "search": search,
        "chosen": None,
        "vote": None,
        "abstained": False,
        "note": "",
    }

    def line(name: str, mean: float, gain: float, half: float, **more: object) -> dict:
        interval = {"gain": gain, "low": gain - half, "high": gain + half}
        counts = {"fixes": round(400 * max(gain, 0)), "regressions": 3}
        return plain | {"name": name, "label": name, "mean": mean} | interval | counts | more

    nothing = dict.fromkeys(search, 0)
    chosen = {"id": "x", "quantile": 0.8, "inverse_temperature": None, "step": 2.0}
    rows = [
        line("base", 0.4, 0.0, 0.0, search=nothing, label="base model"),
        line("best_single", 0.61, 0.21, 0.06, label=f"best {HOSTILE[0]}"),
        line(
            "majority_vote",
            0.7,
            0.3,
            0.055,
            forward_passes=50,
            vote={"ties": 3, "invalid_answers": 1204, "no_answer": 1},
        ),
        line("evolution_strategies", 0.35, -0.05, 0.02, chosen=chosen | {"validation": 0.4}),
        line("committed", 0.9867, 0.5867, 0.057, label="committed model", note=HOSTILE[1]),
        line("gated", 0.4, 0.0, 0.0, abstained=True),
    ]
    sizes = {"examples": 300, "population": 24, "ensemble_population": 24, "votes": 50}
    head = {"format": "corp_ray compare 1", "run": "run", "task": "t", "model": "m", "seed": 0}
    return head | {"split": "test", "split_digest": "d"} | sizes | {"rows": rows}


def diagnosis() -> dict:
    """What jobs.diagnose leaves."""

    def one(value: float, mean: float, p95: float, p: float) -> dict:
        return {"value": value, "null_mean": mean, "null_p95": p95, "p_value": p}

    return {
        "round": 0,
        "candidates": 24,
        "equals_record": True,
        "reliability": one(0.81, 0.01, 0.34, 0.005),
        "direction_cosine": one(0.42, 0.05, 0.21, 0.005),
        "subspace_overlap": [
            {"rank": rank, **one(0.7 - 0.07 * rank, 0.04 * rank, 0.05 + 0.05 * rank, 0.01 * rank)}
            for rank in range(1, 9)
        ],
        "components": {
            "significant": 2,
            "alpha": 0.05,
            "tests": [
                {"component": k, "value": 9.0 / k, "null_p95": 3.5, "p_value": 0.01 * k}
                for k in (1, 2, 3)
            ],
        },
        "examples": 120,
        "sigmas": [],
        "consolidations": [
            {"quantile": 0.7, "inverse_temperature": 20.0, "elite": 12, "norm": 0.0003}
            | {"trace": 0.1, "effective_rank": 6.25, "kappa": 0.0125, "ess": 7.5}
        ],
        "outcomes": outcomes(),
        "rounding": {
            "proposal": HOSTILE[0],
            "accepted": True,
            "dtype": "bfloat16",
            "step": 4.0,
            "norm": 0.001,
            "rows": [changed(f"{text[:300]}{at}", at) for at, text in enumerate(HOSTILE)],
            "total": changed("total", 3),
        },
    }


def outcomes() -> dict:
    """The part of a diagnosis that says where gains come from."""

    def gain(candidates: int, points: float) -> dict:
        part = {"examples": 60, "gain": points / 100, "fixes": 12.25, "regressions": 3.0}
        nothing = {"examples": 0, "gain": 0.0, "fixes": 0.0, "regressions": 0.0}
        parts = {"graded": part, "wrong_format": part, "verifier_error": nothing}
        return {"candidates": candidates, "gain": points / 50, "by_center_outcome": parts}

    return {
        "solved_by": {"none": 0.125, "some": 0.75, "all": 0.125},
        "counts": {"graded": 2000, "wrong_format": 880, "verifier_error": 0},
        "center_counts": {"graded": 60, "wrong_format": 60, "verifier_error": 0},
        "fixes_and_regressions": [],
        "best": {"id": "r0c1", **gain(1, 9.1)},
        "elite": gain(12, 4.2),
    }


def changed(name: str, at: int) -> dict:
    """A line of a diagnosis's rounding."""
    sizes = {"elements": 1000 + at, "nominal": 0.001, "realised": 0.00105, "ratio": 1.05 + at}
    return {"name": name, **sizes, "changed": 0.7 - 0.01 * at, "cosine": 0.96 - 0.05 * at}
