"""Ray metrics: what a run told its observer is what a real node exports to Prometheus."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import pytest

from corp_ray import telemetry
from corp_ray.observers import Displays, kind_of_phase
from corp_ray.records import GRADED, VERIFIER_ERROR, Candidate, EngineCounts, Evaluation
from corp_ray.telemetry import METRICS, RayMetrics
from tests import runs

RUNS = ("first told", "second told")

# A process of its own: Ray's metrics belong to the process that started or joined Ray.
DRIVER = """
import json, sys, time, urllib.request
import ray
from tests.test_telemetry import RUNS, expected, feed, samples

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
for run in RUNS:
    feed(run)
own = ray.get_runtime_context().get_node_id()
port = next(n["MetricsExportPort"] for n in ray.nodes() if n["NodeID"] == own)
deadline, lines = time.monotonic() + 120, []
while time.monotonic() < deadline and samples(lines)[0] != expected():
    time.sleep(1)  # Ray exports every 10 s
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        lines = [line for line in reply.read().decode().splitlines() if "ray_corp_" in line]
sys.stdout.write(json.dumps(lines))
"""


def evaluation(mean, split="support", outcome=GRADED, tokens=7):
    candidate = Candidate("r0c1", "candidate", 0, ((3, 0.1),))
    return Evaluation(candidate, "abc", split, (mean,) * 4, (outcome,) * 4, tokens, 0.5, "fake")


def feed(run):
    """A small story with every kind of number in it."""
    seconds = iter(range(100))
    observer = Displays(RayMetrics(run, clock=lambda: 10.0 * next(seconds)))
    observer.phase("round 0: population", 12, 5)
    observer.result(evaluation(0.25))
    observer.result(evaluation(0.75))
    observer.result(evaluation(0.5, outcome=VERIFIER_ERROR))
    observer.phase_done()
    observer.engines(EngineCounts(2, 1, 1, 60.0, 80.0, 0))
    observer.phase("round 1: population", 8, 0)
    observer.result(evaluation(0.5))
    observer.phase_done()
    observer.phase("round 1: gate", 2, 0)
    observer.result(evaluation(0.125, split="gate"))
    observer.phase_done()
    observer.note("a line")
    observer.engines(EngineCounts(3, 0, 4, 75.0, 100.0, 2))


def expected():
    """What two runs told that story must be exported as."""
    values = {}
    for run in RUNS:
        for name, tags, value in [
            ("candidates_total", {"split": "support"}, 4),
            ("candidates_total", {"split": "gate"}, 1),
            ("generated_tokens_total", {}, 35),
            ("phase_seconds_total", {"phase": "population"}, 20),
            ("phase_seconds_total", {"phase": "gate"}, 10),
            ("phase_done", {"phase": "population"}, 1),
            ("phase_done", {"phase": "gate"}, 1),
            ("phase_size", {"phase": "population"}, 8),
            ("phase_size", {"phase": "gate"}, 2),
            ("engines", {"state": "ready"}, 3),
            ("engines", {"state": "starting"}, 0),
            ("idle_share", {}, 0.25),
            ("engine_restarts_total", {}, 4),
            ("verifier_errors_total", {}, 4),
            ("set_aside_total", {}, 2),
            ("best_reward", {"split": "support"}, 0.75),
            ("best_reward", {"split": "gate"}, 0.125),
        ]:
            labels = tuple(sorted({"run": run, **tags}.items()))
            values[f"ray_corp_{name}", labels] = value
    return values


def samples(lines):
    """{(name, the labels that are ours): value} and {name: type} of Prometheus lines; other runs on
    the same cluster have metrics too."""
    values, kinds = {}, {}
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
            ours = dict(re.findall(r'\b(run|split|phase|state)="([^"]*)"', labels))
            if ours["run"] in RUNS:
                values[name, tuple(sorted(ours.items()))] = float(value)
    return values, kinds


@pytest.fixture(scope="module")
def exported(ray_address):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, ray_address],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return samples(json.loads(done.stdout))


def test_a_node_exports_the_values_that_were_fed_in_and_nothing_else(exported):
    assert exported[0] == expected()


def test_every_metric_of_the_table_is_exported_as_the_kind_it_says(exported):
    _, kinds = exported
    names = {
        f"ray_{name}{'_total' if metric.kind == 'counter' else ''}": metric.kind
        for name, metric in METRICS.items()
    }
    assert kinds == names


def test_phases_of_all_rounds_share_few_names():
    names = {
        f"round {n}: {kind}": kind
        for n in (0, 17)
        for kind in ("population", "validation sweep", "gate")
    }
    assert {name: kind_of_phase(name) for name in names} == names
    assert kind_of_phase("test") == "test"
    assert kind_of_phase("best single candidate") == "other"


def test_a_metrics_system_that_fails_is_said_once_and_breaks_nothing(monkeypatch, caplog):
    class Broken:
        def __init__(self, *arguments):
            pass

        def inc(self, *arguments):
            raise RuntimeError("no exporter")

        set = inc

    monkeypatch.setattr(telemetry, "_MAKE", {"counter": Broken, "gauge": Broken})
    with caplog.at_level(logging.WARNING, "corp_ray"):
        feed("unlucky")
    assert [record.getMessage() for record in caplog.records] == [
        "metrics: corp_phase_size is not recorded (no exporter)"
    ]
