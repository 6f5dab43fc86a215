"""Several runs as one table: its figures by hand, what may not be mixed, the page around it."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from corp_ray import config, population
from corp_ray.diagnosis import diagnose
from corp_ray.errors import ConfigError
from corp_ray.results import collect, pair, rounds, structure
from corp_ray.results_files import rounds_of
from corp_ray.results_kinds import KINDS
from corp_ray.results_text import (
    answered,
    insert,
    pairs,
    rounded,
    rounds_told,
    structures,
    tables,
)
from corp_ray.scored_run import ScoredRun

ROOT = Path(__file__).resolve().parent.parent.parent
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NAMES = ("base", "best_single", "majority_vote", "committed")


def comparison(task, seed, means, *, abstained=False, **changes):
    """What jobs/compare leaves, with these means for NAMES and intervals of 2 points either way."""
    rows = []
    for name, mean in zip(NAMES, means, strict=True):
        gain = mean - means[0]
        rows.append(
            {
                "name": name,
                "label": name.replace("_", " "),
                "mean": mean,
                "gain": gain,
                "low": gain - 0.02,
                "high": gain + 0.02,
                "forward_passes": 40 if name == "majority_vote" else 1,
                "generated_tokens_per_item": 8.0,
                "search": {"candidates": 400, "answers": 25600},
                "abstained": abstained and name == "committed",
            }
        )
    return {
        "task": task,
        "seed": seed,
        "model": "m",
        "population": 40,
        "ensemble_population": 400,
        "votes": 40,
        "examples": 256,
        "split_digest": "d",
        "rows": rows,
        **changes,
    }


FOUR = {
    "a0": comparison("add", 0, (0.10, 0.15, 0.30, 0.20)),
    "a1": comparison("add", 1, (0.10, 0.20, 0.30, 0.10), abstained=True),
    "b0": comparison("lcm", 0, (0.20, 0.20, 0.30, 0.30)),
    "b1": comparison("lcm", 1, (0.20, 0.25, 0.20, 0.16)),
}


def test_the_figures_of_merit_are_those_computed_by_hand():
    found = collect(FOUR)
    # Gains of the committed model: .10, 0, .10, -.04; over the single: .05, -.10, .10, -.09.
    assert found["mean_gain_over_base"]["points"] == pytest.approx(4.0)
    assert found["mean_gain_over_base"]["fraction"] == pytest.approx(0.04)
    # Two tasks of .05 and .03: half their distance.
    assert found["mean_gain_over_base"]["standard_error_points"] == pytest.approx(1.0)
    assert found["mean_gain_over_best_single"]["points"] == pytest.approx(-1.0)
    # The ensemble gains .20, .20, .10, 0: .125 in the mean, of which .04 is 32 %.
    assert found["share_of_ensemble_gain"]["fraction"] == pytest.approx(0.32)
    assert found["share_of_ensemble_gain"]["points"] == pytest.approx(32.0)
    assert (found["runs"], found["abstained"]) == (4, 1)
    committed = next(one for one in found["methods"] if one["name"] == "committed")
    assert committed["mean"] == pytest.approx(0.19)
    assert (committed["above_base"], committed["below_base"]) == (2, 1)
    assert [(one["task"], one["seed"]) for one in found["rows"]] == [
        ("add", 0),
        ("add", 1),
        ("lcm", 0),
        ("lcm", 1),
    ]


@pytest.mark.parametrize(("names", "points"), [("a0 a1", 5.0), ("a0 a1 b0", 20 / 9), ("a0 b0", 0)])
def test_the_error_is_that_of_tasks_where_there_are_several(names, points):
    """Gains .10, 0 and .10: a distance of tasks, or of one task's runs; off by -.0333 and +.0333."""
    found = collect({name: FOUR[name] for name in names.split()})
    error = found["mean_gain_over_base"]["standard_error_points"]
    assert error == pytest.approx(points, abs=1e-9)


def test_an_ensemble_without_a_gain_has_no_share_and_one_run_has_no_error():
    found = collect({"b1": FOUR["b1"]})
    assert found["share_of_ensemble_gain"] == {"fraction": None, "points": None}
    assert found["mean_gain_over_base"]["standard_error_points"] is None
    assert "none to share" in tables(found)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"votes": 50}, "b0: votes is 50, in a0 it is 40"),
        ({"model": "n"}, "b0: model is 'n', in a0 it is 'm'"),
        ({"task": "add"}, "b0: add, seed 0 is in a0 too"),
    ],
)
def test_runs_that_are_not_alike_are_refused_by_name(other, said):
    with pytest.raises(ConfigError, match=said):
        collect({"a0": FOUR["a0"], "b0": {**FOUR["b0"], **other}})


def test_tables_hold_every_run_and_method_and_the_page_keeps_its_words():
    text = tables(collect(FOUR))
    assert "| add | 1 | 0.100 | 0.200 | 0.300 | abstained | +0.0 [-2.0, +2.0] |" in text
    assert "| lcm | 0 | 0.200 | 0.200 | 0.300 | 0.300 | +10.0 [+8.0, +12.0] |" in text
    assert "| committed | 0.190 | +4.0 ± 1.0 | 2 / 1 | 1 | 8.0 | 400 | 25,600 |" in text
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = insert(page, text)
    assert once.startswith(f"before\n{BEGIN}\n") and once.endswith(f"{END}\nafter\n")
    assert "old" not in once and insert(once, text) == once
    with pytest.raises(ConfigError, match="no place for results"):
        insert("no marks", text)


OTHERS = {
    "other/a0": comparison("add", 0, (0.10, 0.15, 0.30, 0.12)),
    "other/b1": comparison("lcm", 1, (0.20, 0.25, 0.20, 0.22)),
}


def test_a_row_is_set_against_another_run_by_run():
    found = pair(FOUR, OTHERS, "committed", "committed")
    # .20 - .12 and .16 - .22; the gains are .10 and -.04, those of the others .02 and .02.
    assert [(one["task"], one["seed"]) for one in found["rows"]] == [("add", 0), ("lcm", 1)]
    assert [one["difference"] for one in found["rows"]] == pytest.approx([0.08, -0.06])
    assert found["mean_difference"]["points"] == pytest.approx(1.0)
    assert found["mean_difference"]["standard_error_points"] == pytest.approx(7.0)
    assert found["mean_gain_over_base"]["points"] == pytest.approx(3.0)
    assert found["mean_gain_of_the_other"]["points"] == pytest.approx(2.0)
    text = pairs(found, "ours", "theirs")
    assert "| task | seed | base | ours | theirs | difference, points |" in text
    assert "| lcm | 1 | 0.200 | 0.160 | 0.220 | -6.0 |" in text
    assert text.splitlines()[-1].endswith("|  |  | +3.0 ± 7.0 | +2.0 ± 0.0 | +1.0 ± 7.0 |")
    higher = [{**row, "mean": row["mean"] + 0.05} for row in OTHERS["other/a0"]["rows"]]
    other_base = pair(FOUR, {"x": {**OTHERS["other/a0"], "rows": higher}}, "committed", "committed")
    assert other_base["mean_gain_of_the_other"]["points"] == pytest.approx(2.0)
    within = pair(FOUR, FOUR, "majority_vote", "best_single")
    assert within["mean_difference"]["points"] == pytest.approx(7.5)  # .15, .10, .10, -.05


@pytest.mark.parametrize(
    ("other", "rows", "said"),
    [
        ({"seed": 7}, ("committed", "committed"), "x: no run of add, seed 7, to compare it with"),
        ({"split_digest": "e"}, ("committed", "committed"), "x: split_digest is 'e', in a0 it is"),
        ({}, ("committed", "best"), "add, seed 0: its comparison has no row 'best'"),
    ],
)
def test_runs_that_make_no_pair_are_refused_by_name(other, rows, said):
    with pytest.raises(ConfigError, match=said):
        pair(FOUR, {"x": {**FOUR["a0"], **other}}, *rows)
    with pytest.raises(ConfigError, match="b: add, seed 0 is in a too"):
        pair(FOUR, {"a": FOUR["a0"], "b": FOUR["a0"]}, "committed", "committed")


def test_populations_diagnoses_are_one_table():
    run = ScoredRun(str(ROOT / "docs/results/populations/chain_sum-0"))
    whole = diagnose(run, halvings=20, permutations=19)
    flat = {**whole, "components": None, "reliability": None, "undefined": "nothing differs"}
    found = structure([("lcm", 1, flat), ("add", 0, whole)])
    assert [(row["task"], row["seed"]) for row in found["rows"]] == [("add", 0), ("lcm", 1)]
    row = found["rows"][0]
    assert row["reliability"] == whole["reliability"] and row["candidates"] == 400
    assert "fixes_and_regressions" not in row["outcomes"]
    first, second = structures(found).splitlines()[2:]
    one = whole["components"]["tests"][0]
    assert f"| add | 0 | 400 | {whole['reliability']['value']:.2f} (" in first
    assert f"| {whole['components']['significant']}" in first
    assert f"; {one['value']:.2f} ({one['null_p95']:.2f}) |" in first
    elite = whole["outcomes"]["elite"]["by_center_outcome"]
    assert first.endswith(f"| {100 * elite['graded']['gain']:+.1f} |")
    assert second.startswith("| lcm | 1 | 400 | – |") and "| – |" in second[20:]
    with pytest.raises(ConfigError, match=r"lcm, seed 1: diagnosed with 20 halvings, .* 100"):
        structure([("add", 0, {**whole, "halvings": 100}), ("lcm", 1, flat)])


@pytest.mark.parametrize(
    ("low_rank", "significant", "p_value", "shown"),
    [(True, 2, 0.4, "| 2; "), (False, 2, 0.01, "| 2 +; "), (False, 8, None, "| 8 +; ")],
)
def test_structure_beyond_the_components_is_marked(low_rank, significant, p_value, shown):
    run = ScoredRun(str(ROOT / "docs/results/populations/chain_sum-0"))
    whole = diagnose(run, halvings=2, permutations=19)
    rest = None if p_value is None else {**whole["components"]["tests"][0], "p_value": p_value}
    parts = {"significant": significant, "low_rank": low_rank, "remainder": rest}
    changed = {**whole, "components": {**whole["components"], **parts}}
    assert shown in structures(structure([("add", 0, changed)]))


def test_a_tasks_arguments_stand_in_a_table_only_where_they_tell_tasks_apart():
    def named(*tasks):
        runs = {name: {**FOUR["a0"], "task": name} for name in tasks}
        lines = (
            tables(collect(runs)).splitlines()
            + pairs(pair(runs, runs, "committed", "base"), "ours", "base").splitlines()
        )
        return [line.split(" | 0 | ")[0][2:] for line in lines if " | 0 | " in line]

    assert named('sum {"terms": 2}', "lcm") == ["lcm", "sum"] * 2
    both = ['sum {"terms": 2}', 'sum {"terms": 3}']
    assert named(*both) == both * 2


def test_the_published_roundings_are_told_and_are_those_of_the_kept_runs_steps():
    found = json.loads((RESULTS / "rounding.json").read_text())
    page = (ROOT / "docs/results.md").read_text()
    assert insert(page, rounded(found), "rounding") == page
    assert [row["run"] for row in found["rows"]] == [run.name for run in RUNS]
    for row, run in zip(found["rows"], RUNS, strict=True):
        record = json.loads((run / "rounds/0.json").read_text())
        assert (row["proposal"], row["accepted"]) == (record["best"], record["accepted"])


def test_a_runs_rounding_is_that_of_its_diagnosis_and_is_asked_for_where_it_is_not(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(KEPT[0], copy)
    (copy / "report").mkdir()
    total = {"nominal": 0.002, "realised": 0.0021, "ratio": 1.05, "changed": 0.5, "cosine": 0.75}
    part = {"proposal": None, "accepted": False, "dtype": "bfloat16", "total": total, "rows": []}
    diagnosis = {"round": 0, "candidates": 400, "examples": 64, "equals_record": None}
    kind, file = KINDS["rounding"], copy / "report/diagnosis.json"
    file.write_text(json.dumps(diagnosis | {"rounding": part}))
    line = kind.tell(kind.collect([str(copy)])).splitlines()[-1]
    assert line == "| chain_sum-randopt-0 | – | no | 0.00200 | 1.050 | 50.0 | 0.7500 |"
    file.write_text(json.dumps(diagnosis | {"rounding": None}))
    with pytest.raises(ConfigError, match="no rounding; jobs"):
        kind.collect([str(copy)])


def test_rounds_are_told_with_what_the_gate_said_or_that_it_was_not_asked():
    support = {"center": 0.25, "best": {"id": "r0c1", "mean": 0.375}}
    record = {
        "round": 0,
        "population": 3,
        "set_aside": 1,
        "support": {**support, "constructive": {"r0c0": 0.0, "r0c1": 0.5}},
        "verdict": {"fixes": 7, "regressions": 2, "p_value": 0.0898, "alpha": 0.04, "mean": 0.1},
        "accepted": True,
        "reason": "gain",
    }
    unasked = {"verdict": None, "accepted": False, "reason": "no_gain_on_validation"}
    found = rounds([("a", record), ("a", {**record, "round": 1, "set_aside": 0, **unasked})])
    first, second = rounds_told(found).splitlines()[2:]
    assert first == "| a | 0 | 2 | 0.250 | 0.375 | 1 | 7 / 2 | 0.09 | 0.04 | accepted |"
    assert second == "| a | 1 | 3 | 0.250 | 0.375 | 1 | – | – | – | no gain on validation |"
    with pytest.raises(ConfigError, match="no round is decided"):
        rounds([])


def job(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jobs.results", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_job_reads_run_directories_and_writes_the_rows_and_the_page(tmp_path):
    for name, content in FOUR.items():
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("run: {id: x}\n")
        (tmp_path / name / "report/compare.json").write_text(json.dumps(content))
    page, rows = tmp_path / "results.md", tmp_path / "results.json"
    page.write_text(f"# Results\n{BEGIN}\n{END}\nend\n")
    runs = [tmp_path / name for name in FOUR]
    done = job(*runs, "--page", page, "--json", rows)
    assert done.returncode == 0, done.stderr
    assert json.loads(rows.read_text()) == collect(FOUR)
    assert page.read_text() == insert(f"# Results\n{BEGIN}\n{END}\nend\n", tables(collect(FOUR)))
    page.write_text(page.read_text() + "<!-- noise: begin -->\n<!-- noise: end -->\n")
    arguments = ("--rows", "committed", "base", "--names", "ours", "before", "--mark", "noise")
    done = job(*runs, "--against", *runs[:2], *arguments, "--page", page, "--json", rows)
    assert done.returncode == 0, done.stderr
    found = pair(FOUR, {name: FOUR[name] for name in ("a0", "a1")}, "committed", "base")
    assert json.loads(rows.read_text()) == found
    assert pairs(found, "ours", "before") in page.read_text().partition("noise: begin")[2]
    assert tables(collect(FOUR)) in page.read_text()
    (tmp_path / "a0/report/compare.json").unlink()
    before = page.read_text()
    failed = job(*runs, "--page", page)
    assert failed.returncode == 2 and "jobs.compare makes it" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1 and page.read_text() == before


KEPT = sorted((ROOT / "docs/results/populations").iterdir())


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_population_is_that_of_its_configuration(folder):
    """Candidates, seeds, scales, task and splits are what conf/results says, and its rows are whole."""
    task, _, seed = folder.name.rpartition("-")
    wanted = config.load(str(ROOT / f"conf/results/{task}.yaml"), [f"run.seed={seed}"])
    kept = ScoredRun(str(folder))
    assert kept.config["run"]["seed"] == wanted.run.seed
    for section in ("model", "task", "splits", "decoding", "perturb"):
        stored = {
            k: v for k, v in kept.config[section].items() if k in asdict(getattr(wanted, section))
        }
        assert stored == {k: asdict(getattr(wanted, section))[k] for k in stored}, section
    rows = kept.population(0)
    sampled = population.isotropic(wanted.run.seed, 0, 400, wanted.population.sigmas)
    assert [row.candidate for row in rows] == sampled
    assert all(len(row.rewards) == wanted.splits.support for row in rows)
    assert len({row.center_digest for row in rows}) == 1


RESULTS = ROOT / "docs/results"
RUNS = sorted(path for path in (RESULTS / "runs").iterdir() if path.name[-2:] in ("-0", "-1", "-2"))


def kept(pattern):
    """The comparisons of kept runs by their names."""
    found = {
        path.name: json.loads((path / "report/compare.json").read_text())
        for path in sorted((RESULTS / "runs").glob(pattern))
    }
    assert len(found) == (12 if "[" in pattern else 4)
    return found


def test_the_published_tables_are_those_of_the_kept_runs():
    comparisons = kept("*-[012]")
    page = (ROOT / "docs/results.md").read_text()
    found = collect(comparisons)
    assert json.loads((ROOT / "docs/results.json").read_text()) == found
    assert insert(page, tables(found)) == page
    seed_0, noise = kept("*-0"), ("independent noise", "one noise for a shape")
    ranks = kept("*-low-rank-true"), kept("*-low-rank-false")
    softmax = ("compatibility 1", "compatibility 0")
    for mark, sides, rows, names in (
        ("compatibility", (comparisons, comparisons), ("ungated", "reward_softmax"), softmax),
        ("gate", (comparisons, comparisons), ("gated", "ungated"), ("with the gate", "without")),
        ("noise", (seed_0, kept("*-shared-noise")), ("ungated", "ungated"), noise),
        ("low-rank", ranks, ("committed", "committed"), ("low rank", "isotropic")),
    ):
        table = pairs(pair(*sides, *rows), *names)
        assert insert(page, table, f"ablation-{mark}") == page
    structured = json.loads((RESULTS / "structure.json").read_text())
    assert insert(page, structures(structured), "structure") == page
    rows = [f"{row['task'].split()[1]}-{row['seed']}" for row in structured["rows"]]
    assert rows == [path.name for path in KEPT]


def test_the_readme_says_what_the_results_say():
    found = json.loads((ROOT / "docs/results.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text().split())
    over = [found["mean_gain_over_base"], found["mean_gain_over_best_single"]]
    amounts = [f"{one['points']:+.1f} ± {one['standard_error_points']:.1f}" for one in over]
    assert f"over the base {amounts[0]} points" in readme
    assert f"over the best single candidate of 400 {amounts[1]}, " in readme
    share = found["share_of_ensemble_gain"]["points"]
    assert f"{share:.0f} % of the gain of a vote of {found['votes']} models" in readme
    assert f"abstained in {found['abstained']} of {found['runs']} runs" in readme


def test_the_page_says_what_three_tasks_give_without_the_one_in_doubt():
    found = collect({n: one for n, one in kept("*-[012]").items() if not n.startswith("chain_sum")})
    page = " ".join((ROOT / "docs/results.md").read_text().split())
    base, single, vote = (
        f"{one['points']:+.1f} ± {one['standard_error_points']:.1f}"
        for one in (
            found["mean_gain_over_base"],
            found["mean_gain_over_best_single"],
            found["mean_ensemble_gain_over_base"],
        )
    )
    assert f"gains {base} points over the base and {single} over the best single" in page
    assert f"the vote {vote}." in page


def test_the_published_answers_are_those_of_the_kept_runs():
    found = json.loads((ROOT / "docs/results/answers.json").read_text())
    page = (ROOT / "docs/results.md").read_text()
    assert insert(page, answered(found), "answers") == page
    assert len(found["rows"]) == len(RUNS)
    for row, folder in zip(found["rows"], RUNS, strict=True):
        report = json.loads((folder / "report/compare.json").read_text())
        assert (row["task"], row["seed"]) == (report["task"], report["seed"])
        means = {one["name"]: one["mean"] for one in report["rows"]}
        assert row["means"] == {name: means[name] for name in row["means"]}
        for name, mean in row["means"].items():
            parts = [one[name]["share"] * (one[name]["mean"] or 0.0) for one in row["openings"]]
            assert sum(parts) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize(
    ("openings", "cells"),
    [
        (
            [("A b", 0.5, 0.25, 0.1), (None, 0.5, None, 0.2)],
            "| all others | 50 %, – | 50 %, – | 50 %, – |",
        ),
        ([("", 1.0, 0.25, 0.1)], "| `no text` | 100 %, 0.250 | 100 %, 0.250 | 100 %, 0.250 |"),
        ([("a|`b`", 1.0, 0.5, 0.1)], "| `a\\|'b'` | 100 %, 0.500 | 100 %, 0.500 | 100 %, 0.500 |"),
        ([], "| – | – | – | – |"),
    ],
)
def test_the_beginning_that_gains_most_is_shown(openings, cells):
    names = ("base", "best_single", "ungated")
    lines = [
        {"opening": text, **{n: {"share": s, "mean": m, "gain": g} for n in names}}
        for text, s, m, g in openings
    ]
    voters = {"count": 2, "mean": 0.1, "best": 0.2, "any": 0.3}
    row = {"task": "add", "seed": 3, "means": {}, "openings": lines, "voters": voters}
    row |= {"items": {"count": 9, "common": 4, "in_question": 2}, "fixes": None}
    line = answered({"rows": [row]}).splitlines()[-1]
    assert line == f"| add | 3 {cells} 0.100 / 0.200 / 0.300 | 9 / 4 / 2 | – |"


ABLATIONS = {
    "shared-noise": [
        "compare.population=40",
        "compare.methods=[ungated]",
        "engine.kind=tests.shared_noise:SharedNoiseEngine",
    ],
    **{
        f"low-rank-{low_rank}": [
            "run.from_rewards=docs/results/populations/{task}-0",
            "compare.population=40",
            "compare.methods=[committed]",
            "recentering.rounds=1",
            "recentering.population=40",
            f"recentering.low_rank={low_rank}",
        ]
        for low_rank in ("true", "false")
    },
}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_kept_ablation_has_the_settings_of_the_page(ablation):
    for task in ("chain_sum", "lcm", "letter_counting", "number_sequence"):
        changes = [one.format(task=task) for one in ABLATIONS[ablation]]
        changes += [f"run.id={task}-{ablation}", "run.seed=0"]
        wanted = config.to_dict(config.load(str(ROOT / f"conf/results/{task}.yaml"), changes))
        assert ScoredRun(str(RESULTS / f"runs/{task}-{ablation}")).config == wanted


def test_the_published_rounds_are_those_of_the_kept_runs():
    found = rounds(rounds_of([str(one) for one in sorted((RESULTS / "runs").glob("*-low-rank-*"))]))
    assert len(found["rows"]) == 2 * 8
    assert json.loads((RESULTS / "rounds.json").read_text()) == found
    page = (ROOT / "docs/results.md").read_text()
    assert insert(page, rounds_told(found), "rounds") == page


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_kept_run_has_the_settings_of_its_task_and_of_the_page(folder):
    """And its rows are those of the page's command: 40 candidates, 40 votes of 400."""
    task, _, seed = folder.name.rpartition("-")
    command = ("compare.population=400", "compare.votes=40")
    source = f"run.from_rewards=docs/results/populations/{folder.name}"
    changes = [f"run.id={folder.name}", f"run.seed={seed}", source, *command]
    wanted = config.to_dict(config.load(str(ROOT / f"conf/results/{task}.yaml"), changes))
    assert ScoredRun(str(folder)).config == wanted
    report = json.loads((folder / "report/compare.json").read_text())
    assert report["run"] == folder.name and report["seed"] == int(seed)
    assert (report["population"], report["ensemble_population"], report["votes"]) == (40, 400, 40)
    assert report["examples"] == wanted["splits"]["test"]
    record = json.loads((folder / "rounds/0.json").read_text())
    (gated,) = [row for row in report["rows"] if row["name"] == "gated"]
    assert gated["abstained"] is not record["accepted"]
