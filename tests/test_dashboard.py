"""docker/grafana.json against the metrics that a run exports and the shape that Grafana documents."""

from __future__ import annotations

import importlib
import itertools
import json
import re
from pathlib import Path

import promql_parser
import pytest

ROOT = Path(__file__).resolve().parent.parent
# name -> kind and tags
METRICS = {
    "corp_candidates": ("counter", {"run", "split"}),
    "corp_generated_tokens": ("counter", {"run"}),
    "corp_phase_seconds": ("counter", {"run", "phase"}),
    "corp_phase_done": ("gauge", {"run", "phase"}),
    "corp_phase_size": ("gauge", {"run", "phase"}),
    "corp_engines": ("gauge", {"run", "state"}),
    "corp_idle_share": ("gauge", {"run"}),
    "corp_engine_restarts": ("counter", {"run"}),
    "corp_verifier_errors": ("counter", {"run"}),
    "corp_set_aside": ("counter", {"run"}),
    "corp_best_reward": ("gauge", {"run", "split"}),
}
if (ROOT / "corp_ray" / "telemetry.py").is_file():  # then the list there is the one
    telemetry = importlib.import_module("corp_ray.telemetry")
    METRICS = {name: (metric.kind, set(metric.tags)) for name, metric in telemetry.METRICS.items()}
# As Ray exports them: a prefix, and `_total` on counters.
EXPORTED = {
    f"ray_{name}" + ("_total" if kind == "counter" else ""): tags
    for name, (kind, tags) in METRICS.items()
}
DASHBOARD = json.loads((ROOT / "docker" / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def named(text: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", text))


def test_every_metric_is_in_a_panel_and_no_panel_names_another():
    assert set().union(*map(named, EXPRESSIONS)) == set(EXPORTED)
    for variable in DASHBOARD["templating"]["list"]:
        assert named(json.dumps(variable)) <= set(EXPORTED)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_choose_the_runs_and_group_by_tags_that_the_metric_has(expression):
    for name in named(expression):
        assert f'{name}{{run=~"$run"}}' in expression
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(grouped.split(", ")) <= EXPORTED[name]
    promql_parser.parse(expression.replace("$__range", "6h"))
    counters = [name for name in named(expression) if name.endswith("_total")]
    assert bool(counters) == bool(re.search(r"\b(rate|max_over_time)\(", expression))


def test_legends_name_only_labels_that_the_expression_keeps():
    for panel in PANELS:
        for target in panel["targets"]:
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = set(re.search(r"by \(([^)]*)\)", target["expr"])[1].split(", "))
            assert labels == kept, panel["title"]


def test_panels_lie_in_the_grid_without_overlap():
    cells = []
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["w"] > 0 and at["h"] > 0 and at["x"] + at["w"] <= 24
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells += itertools.product(columns, rows)
    assert len(cells) == len(set(cells))


def test_the_dashboard_has_the_documented_shape():
    assert isinstance(DASHBOARD["schemaVersion"], int) and DASHBOARD["schemaVersion"] >= 39
    assert "id" not in DASHBOARD  # Grafana gives it on import
    assert {"title", "uid", "time", "refresh", "annotations", "tags"} <= set(DASHBOARD)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "stat", "bargauge"}
        assert panel["title"] and panel["description"].endswith(".")
        assert set(panel["fieldConfig"]) == {"defaults", "overrides"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_datasource_and_the_run_are_variables():
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["run"]["type"] == "query"
    assert variables["run"]["query"]["query"] == "label_values(ray_corp_phase_size, run)"
