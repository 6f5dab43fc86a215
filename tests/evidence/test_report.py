"""jobs/report: a run's report from its directory alone, in every state that a directory can be in."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest

import jobs.report
from corp_ray import posttrain
from corp_ray.cli import run_job
from corp_ray.diagnosis import diagnose
from corp_ray.lease import Lease
from corp_ray.report import cheap_diagnosis, make_report
from corp_ray.report.content import content
from corp_ray.report.figures_rounding import rounding_plot
from corp_ray.report.members import decided_by, of_round
from corp_ray.report.outcome import choose
from corp_ray.report.page import bars
from corp_ray.scored_run import ScoredRun
from corp_ray.status import read_status
from corp_ray.storage import Storage
from tests import runs
from tests.report_runs import HOSTILE, hostile_run
from tests.s3_server import BUCKET, CREDENTIALS, serving


@pytest.fixture
def report_job(monkeypatch, capsys):
    """Runs jobs/report with arguments: (exit code, standard output, standard error)."""

    def job(*arguments):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_job(jobs.report.main)
        return (ended.value.code, *capsys.readouterr())

    return job


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def numbers(root):
    """What report.json would hold."""
    run, status = ScoredRun(str(root)), read_status(str(root))
    return json.loads(json.dumps(content(run, status, cheap_diagnosis)))


def written(root):
    """report.json and the page as they are made anew."""
    make_report(str(root))
    page = (root / "report/report.html").read_text()
    return json.loads((root / "report/report.json").read_text()), page


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_address):
    """(run directory, standard error) of a run that commits and makes its report."""
    folder = tmp_path_factory.mktemp("finished")
    config = runs.workspace(folder, **{"run.report": True})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    return folder / "runs/run", err


@pytest.fixture(scope="module")
def abstained(tmp_path_factory, ray_address):
    """(run directory, standard error) of a run that accepts nothing and cannot make its report."""
    folder = tmp_path_factory.mktemp("abstained")
    config = runs.workspace(
        folder,
        **{"run.report": True, "gate.min_gain": 0.95, "recentering.rounds": 0},
        **{"splits.gate": 60, "splits.test": 60, "population.size": 12, "ray.engines": 1},
    )
    (folder / "runs/run/report/report.html").mkdir(parents=True)
    code, out, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert "the base model stands" in out
    return folder / "runs/run", err


@pytest.fixture(scope="module")
def hostile(finished, tmp_path_factory):
    """(run directory, report.json, page) of a run with every section and hostile texts."""
    root = hostile_run(finished[0], tmp_path_factory.mktemp("hostile") / "run")
    return root, *written(root)


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_run_ends_with_its_report_and_the_job_makes_the_same_bytes_again(finished, report_job):
    root, err = finished
    assert f"report: {root}/report/report.html" in err
    before = files(root / "report")
    assert {"report.html", "report.json", "sigma.png", "population.png", "gate.png"} <= set(before)
    assert all(before[name][:4] == b"\x89PNG" for name in before if name.endswith(".png"))
    code, out, _ = report_job(root)
    assert (code, out) == (0, f"{root}/report/report.html\n")
    assert files(root / "report") == before


def test_output_names_another_folder_and_the_run_is_left_alone(copy, tmp_path, report_job):
    shutil.rmtree(copy / "report")
    code, _, err = report_job(copy, "--output", tmp_path / "other")
    assert code == 0, err
    assert (tmp_path / "other/report.html").exists()
    assert not (copy / "report").exists()


def test_the_numbers_are_those_of_the_reward_table(finished):
    root = finished[0]
    found = numbers(root)
    rows = runs.rows(root)
    first = [
        r for r in rows if r["split"] == "support" and r["kind"] == "candidate" and not r["round"]
    ]
    rounds = [json.loads((root / f"rounds/{n}.json").read_text()) for n in (0, 1)]
    base = rounds[0]["center"]["digest"]

    population = found["population"]
    means = {r["candidate_id"]: np.mean(r["rewards"]) for r in first}
    assert {c["id"]: c["mean"] for c in population["candidates"]} == pytest.approx(means)
    assert population["best"]["mean"] == pytest.approx(max(means.values()))
    for one in population["sigmas"]:
        own = [np.mean(r["rewards"]) for r in first if r["sigma"] == one["sigma"]]
        assert one["median"] == pytest.approx(np.median(own))
        assert one["upper_quartile"] == pytest.approx(np.quantile(own, 0.75))
    assert sum(one["count"] for one in population["sigmas"]) == len(first) == 24

    def center(split, digest):
        (row,) = [
            r
            for r in rows
            if r["kind"] == "center" and r["split"] == split and r["center_digest"] == digest
        ]
        return row

    assert population["base"] == pytest.approx(np.mean(center("support", base)["rewards"]))
    for grid, record in zip(found["grids"], rounds, strict=True):
        origin = center("validation", record["center"]["digest"])
        assert grid["base"] == pytest.approx(origin["mean_reward"])
        assert grid["proposals"] == record["proposals"]
    assert [look["lower"] for look in found["gate"]] == [
        one["verdict"]["lower"] for one in rounds if one["verdict"]
    ]

    (after,) = [
        r
        for r in rows
        if r["split"] == "test" and r["kind"] == "center" and r["center_digest"] != base
    ]
    delta = np.subtract(after["rewards"], center("test", base)["rewards"])
    table = {row["name"]: row for row in found["summary"]["rows"]}
    tested = json.loads((root / "report/test.json").read_text())["test"]
    assert [table[one["name"]]["mean"] for one in tested] == [one["mean"] for one in tested]
    assert table["committed"]["gain"] == pytest.approx(delta.mean())
    assert (table["committed"]["fixes"], table["committed"]["regressions"]) == (
        np.sum(delta > 0),
        np.sum(delta < 0),
    )
    assert table["best single"]["search"]["answers"] == 24 * 120
    assert table["best single"]["search"]["engine_s"] == pytest.approx(
        sum(r["seconds"] for r in first)
    )
    assert found["flips"]["fixes"] == np.sum(delta > 0) and found["flips"]["split"] == "test"
    begun = found["flips"]["openings"]
    assert sum(one["after"]["gain"] for one in begun) == pytest.approx(delta.mean())
    numbers_alone = [text.strip("-0123456789") == "" for text in after["texts"]]
    assert begun[0]["opening"] == "#"
    assert begun[0]["after"]["share"] == pytest.approx(np.mean(numbers_alone))
    for one in found["flips"]["shown"]:
        assert one["text_after"] == after["texts"][one["position"]]
        assert one["reward_after"] - one["reward_before"] == delta[one["position"]] != 0
    assert found["cost"]["engine_s"] == pytest.approx(sum(r["seconds"] for r in rows))
    assert found["cost"]["generated_tokens"] == sum(r["generated_tokens"] for r in rows)
    assert {s["split"]: s["rows"] for s in found["cost"]["splits"]} == {
        split: sum(r["split"] == split for r in rows)
        for split in ("support", "validation", "gate", "test")
    }


def test_the_verdict_is_a_sentence_with_the_gates_and_the_tests_numbers(finished):
    found = numbers(finished[0])
    look, committed = found["gate"][0], found["summary"]["rows"][-1]
    assert found["verdict"].startswith(
        f"The gate accepted the first update: +{100 * look['mean']:.1f} points on 400 held-out items"
    )
    assert f"+{100 * committed['gain']:.1f} points over the base" in found["verdict"]
    assert (found["state"], found["run"]) == ("ended", "run")


def test_a_run_that_abstains_says_that_the_base_stands_and_why(abstained):
    root, _ = abstained
    found = numbers(root)
    assert found["verdict"].startswith("Abstained: the base model stands, because its gain")
    assert [row["name"] for row in found["summary"]["rows"]] == ["base", "best single"]
    assert found["flips"]["split"] == "gate"
    assert found["flips"]["after"] == "rejected update of round 0"
    assert found["flips"]["fixes"] == found["gate"][0]["fixes"]
    assert found["gate"][0]["threshold"] == 0.95 and not found["gate"][0]["accepted"]


def test_a_report_that_fails_is_one_line_and_the_run_is_what_it_was(abstained):
    root, err = abstained
    lines = [line for line in err.splitlines() if "no report was made" in line]
    assert len(lines) == 1
    assert "Traceback" not in err
    assert json.loads((root / "progress.json").read_text())["state"] == "ended"


def test_whatever_fails_in_a_report_is_caught(finished, monkeypatch, caplog):
    class Quiet:
        def note(self, line):
            raise AssertionError(line)

    def fails(root):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(posttrain, "make_report", fails)
    with caplog.at_level(logging.WARNING):
        posttrain.report(Storage.open(finished[0]), Quiet())
    (line,) = [record.getMessage() for record in caplog.records]
    assert "RuntimeError: first second" in line


def test_a_run_at_work_is_reported_with_what_it_has(copy):
    for name in ("rounds", "commits", "questions", "report"):
        shutil.rmtree(copy / name)
    parts = sorted((copy / "rewards").glob("*.parquet"), key=lambda part: part.stat().st_mtime)
    for part in parts[len(parts) // 2 :]:
        part.unlink()
    lease = Lease(Storage.open(copy))
    lease.acquire()
    try:
        found, page = written(copy)
    finally:
        lease.release()
    scored = {r["candidate_id"] for r in runs.rows(copy) if r["kind"] == "candidate"}
    assert found["state"] == "running"
    assert found["verdict"].startswith("Nothing is decided yet")
    assert 0 < found["population"]["scored"] <= len(scored)
    empty = ("summary", "flips", "diagnosis")
    assert [found[name] for name in empty] == [None] * 3 and found["gate"] == []
    assert "has not been read" in page


def test_an_interrupted_run_says_how_to_go_on_and_names_no_gain_of_the_test(copy):
    (copy / "report/test.json").unlink()
    (copy / "rounds/1.json").unlink()
    content = json.loads((copy / "progress.json").read_text()) | {"state": "running"}
    (copy / "progress.json").write_text(json.dumps(content))
    found = numbers(copy)
    assert found["state"] == "interrupted"
    assert found["summary"] is None and "test split" not in found["verdict"]
    assert (found["flips"]["split"], found["flips"]["before"]) == ("gate", "base")
    assert found["flips"]["fixes"] == found["gate"][0]["fixes"]


def test_a_run_without_a_row_has_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {id: early}\n")
    found, page = written(tmp_path)
    assert found["population"] is None and found["rounds"] == []
    assert found["verdict"].startswith("Nothing is decided yet: no candidates have a reward.")
    assert "early" in page


@pytest.mark.parametrize("what", ["nothing", "folder", "file"])
def test_what_is_no_run_ends_with_one_line_and_code_2(tmp_path, what, report_job):
    place = tmp_path / "place"
    if what == "folder":
        place.mkdir()
    if what == "file":
        place.write_text("x")
    code, out, err = report_job(place)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: {place}: ")
    assert not (place / "report").exists()


def test_a_run_on_an_object_store_has_the_same_report_there(finished, monkeypatch):
    with serving() as server:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        for path in sorted(finished[0].rglob("*")):
            if path.is_file() and path.name != "report.html":
                key = f"runs/run/{path.relative_to(finished[0])}"
                server.client.upload_file(str(path), BUCKET, key)
        make_report(Storage.open(server.url("runs/run")))
        page = server.objects("runs/run/report/report.html")["runs/run/report/report.html"]
        assert page == (finished[0] / "report/report.html").read_bytes()


def test_hostile_texts_are_text_and_the_page_names_nothing_outside(hostile):
    _, found, page = hostile
    assert len(found["flips"]["shown"]) == 10
    shown = "".join(one["question"] + one["text_after"] for one in found["flips"]["shown"])
    assert all(text in shown for text in HOSTILE[:8])
    assert not re.search(r"<script|<img|<iframe|<style>\*|@import", page)
    assert page.count("<style") == 1 and page.count("<pre") == page.count("</pre>")
    outside = re.findall(r"""<[^>]*\b(?:src|href|xlink:href)=["'](?!#|data:)""", page)
    assert outside == [] and "\x00" not in page
    assert "&lt;/script&gt;&lt;script&gt;" in page and "{{ 7 * 7 }}" in page
    assert "'DejaVu Sans'" not in page and "#0a0b" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_a_comparison_takes_the_place_of_the_test_table_and_a_diagnosis_is_shown(finished, hostile):
    root, found, _ = hostile
    assert found["summary"]["source"] == "report/compare.json"
    given = json.loads((root / "report/compare.json").read_text())["rows"]
    for row, one in zip(found["summary"]["rows"], given, strict=True):
        assert (row["mean"], row["search"]) == (one["mean"], one["search"])
        assert row["gain"] == (None if one["name"] == "base" else one["gain"])
    assert found["diagnosis"]["components"]["significant"] == 2
    assert (root / "report/split-half.png").exists() and (root / "report/rounding.png").exists()
    assert numbers(finished[0])["verdict"].split(" On the")[0] in found["verdict"]


def test_a_comparison_made_before_the_run_does_not_hide_what_it_committed(copy):
    tested = {one["name"]: one for one in numbers(copy)["summary"]["rows"]}
    rows = [{**tested["base"], "gain": 0.0}]
    document = {"rows": rows, "split": "test", "examples": 300, "population": 24}
    (copy / "report/compare.json").write_text(json.dumps(document))
    found = numbers(copy)
    assert [row["name"] for row in found["summary"]["rows"]] == ["base", "committed"]
    committed = found["summary"]["rows"][1]
    assert committed == tested["committed"] and committed["search"]["answers"] > 0
    assert "On the test split, read once, the committed model has" in found["verdict"]


def test_the_base_of_an_undecided_extension_is_the_base_and_no_commit(copy):
    """Round 0 is open again, and rows around a commit are in the table too."""
    before = numbers(copy)["population"]["base"]
    shutil.rmtree(copy / "rounds")
    centers = {
        row["center"]: row["mean"]
        for row in ScoredRun(str(copy)).scores()
        if row["kind"] == "center" and row["split"] == "support"
    }
    assert len(set(centers.values())) > 1
    assert numbers(copy)["population"]["base"] == before


def test_a_diagnosis_of_a_later_round_is_not_shown_as_round_0s(copy):
    (copy / "report/diagnosis.json").write_text(
        json.dumps(diagnose(ScoredRun(str(copy)), 1, halvings=20, permutations=19))
    )
    found = numbers(copy)["diagnosis"]
    assert (found["round"], found["candidates"], found["permutations"]) == (0, 24, 99)


def test_without_a_diagnosis_the_report_makes_a_cheap_one_that_is_always_the_same(finished, copy):
    found = numbers(finished[0])["diagnosis"]
    assert (found["candidates"], found["examples"], found["halvings"]) == (24, 120, 20)
    assert found["reliability"]["value"] > found["reliability"]["null_p95"]
    assert numbers(finished[0])["diagnosis"] == found
    shutil.rmtree(copy / "rounds")
    assert numbers(copy)["diagnosis"] is None


def test_a_thorough_diagnosis_is_shown_with_its_outcomes_consolidations_and_rounding(copy):
    found = diagnose(ScoredRun(str(copy)), halvings=20, permutations=19, rounding=True)
    (copy / "report/diagnosis.json").write_text(json.dumps(found))
    report, page = written(copy)
    assert report["diagnosis"] == found and (copy / "report/rounding.png").exists()
    elite = found["outcomes"]["elite"]["by_center_outcome"]
    (table,) = re.findall(r'<table id="outcomes">.*?</table>', page, re.DOTALL)
    for name, one in elite.items():
        (line,) = re.findall(f'<th scope="row">{name.replace("_", " ")}</th>.*?</tr>', table)
        assert f'<td>{one["examples"]}</td><td><data value="{one["gain"]}">' in line
    (table,) = re.findall(r'<table id="rounding">.*?</table>', page, re.DOTALL)
    names = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert names == ["total", *(row["name"] for row in found["rounding"]["rows"])]
    assert f"{len(found['consolidations'])} consolidations" in page
    text = rounding_plot(found["rounding"]).text
    assert f"{found['rounding']['total']['changed']:.1%} of the weights" in text


def test_ten_changes_are_chosen_by_their_place_alone():
    assert choose(range(20), range(100, 120)) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert choose(range(20), [100, 101]) == [*range(8), 100, 101]
    assert choose([3], range(100, 120)) == [3, *range(100, 109)]
    assert choose([], []) == []


def test_a_population_is_the_rounds_own_whatever_else_the_table_holds():
    def row(name, center, kind="candidate", split="support", number=0):
        place = {"id": name, "center": center, "kind": kind, "split": split, "round": number}
        return place | {"mean": 0.5}

    own = [row("r0c0", "a"), row("r0c1", "a"), row("r0center", "a", "center")]
    proposal = row("r0q1b1s1", "a", "proposal", "validation")
    others = [
        row("r0c2", "a"),  # of a larger population
        row("r0c0", "b"),  # around weights that no round of the run began with
        row("r0q1b1s1", "b", "proposal", "validation"),
        row("r0q1s1-average", "a", "proposal", "validation"),  # of a comparison
        row("r0c1", "a", split="test"),
    ]
    record = {"round": 0, "population": 2, "center": {"digest": "a"}}
    record |= {"proposals": [{"id": "r0q1b1s1", "validation": 0.5}], "verdict": None}
    rows = [*others, proposal, *reversed(own)]
    assert of_round(rows, record) == own[:2]
    assert decided_by(rows, [record]) == [*own[:2], proposal, own[2]]


def test_bars_share_a_scale_that_holds_the_base():
    rows = [
        {"low": None, "high": None, "gain": None},
        {"low": 0.1, "high": 0.3, "gain": 0.2},
        {"low": -0.1, "high": 0.1, "gain": 0.0},
    ]
    none, first, second = bars(rows)
    assert none is None
    assert first["zero"] == second["zero"] == second["dot"]
    assert second["left"] < second["zero"] < first["left"] == second["left"] + second["width"]


def test_reading_a_run_needs_neither_ray_nor_torch_and_other_jobs_draw_nothing():
    for module, absent in (
        ("jobs.report", "ray torch matplotlib jinja2"),
        ("jobs.posttrain", "matplotlib jinja2"),
    ):
        code = f"import sys, {module}\nsys.exit(bool({set(absent.split())} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, check=False)
        assert done.returncode == 0, module


def test_every_file_of_the_page_is_package_data():
    packed = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    kept = {path.name for path in (runs.ROOT / "corp_ray/report").iterdir() if path.is_file()}
    assert set(packed["package-data"]["corp_ray.report"]) == {
        name for name in kept if not name.endswith(".py")
    }
