"""`jobs/posttrain` on real vLLM engines: whole runs, killed runs, one engine and two, SmolLM2."""

from __future__ import annotations

import json
import signal
import statistics
import time
from collections import Counter

import pytest
import torch

from tests import runs
from tests.pico import pico_llama

MODEL = runs.ROOT / "models/SmolLM2-135M-Instruct"
SETTINGS = {
    "engine.kind": "vllm",
    "model.dtype": "float32",
    "task.grader": "tests.graders:plain",
    "splits": {"support": 24, "validation": 24, "gate": 60, "test": 40},
    "decoding.max_new_tokens": 8,
    "population.size": 10,
    "population.sigmas": [0.05],
    "consolidation": {
        "quantiles": [0.5],
        "inverse_temperatures": [20.0],
        "steps": [2.0, 4.0],
        "rank": 4,
    },
    "recentering": {"rounds": 1, "population": 4},
}


def rewards(run_directory):
    """Every row's rewards by what was scored; a row that is there twice is an error."""
    rows = runs.rows(run_directory)
    keyed = {
        (row["center_digest"], row["split"], row["direction_digest"]): tuple(row["rewards"])
        for row in rows
    }
    assert len(keyed) == len(rows)
    return keyed


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm_run")
    pico_llama(folder / "model", hidden=128, dtype=torch.float32, seed=1)
    runs.task_file(folder / "task.jsonl")
    return runs.configuration(folder, **SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(config, ray_address):
    """(run directory, standard error) of a run on two engines."""
    code, _, err = runs.run(config, "run.id=two", "ray.engines=2", RAY_ADDRESS=ray_address)
    assert code == 0, err
    return config.parent / "runs/two", err


def test_a_run_commits_and_goes_on_from_its_commit(undisturbed):
    folder, err = undisturbed
    assert "ready: vllm 0.32.0 float32 cpu tp1" in err
    rows = runs.rows(folder)
    assert len({row["center_digest"] for row in rows if row["split"] == "support"}) == 2
    assert {row["engine"] for row in rows} == {"vllm 0.32.0 float32 cpu tp1"}
    assert "1/model.safetensors" in runs.commit_files(folder)


def test_one_engine_gives_the_same_rows_and_commit_as_two(undisturbed, config, ray_address):
    code, _, err = runs.run(config, "run.id=one", "ray.engines=1", RAY_ADDRESS=ray_address)
    assert code == 0, err
    folder = config.parent / "runs/one"
    assert rewards(folder) == rewards(undisturbed[0])
    assert runs.commit_files(folder) == runs.commit_files(undisturbed[0])


def test_a_killed_run_is_taken_up_and_ends_the_same(undisturbed, config, ray_address):
    folder = config.parent / "runs/killed"
    command = (config, "run.id=killed", "ray.engines=1")
    process = runs.start(*command, RAY_ADDRESS=ray_address)
    while not (folder / "rewards").is_dir() or len(runs.rows(folder)) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = rewards(folder)
    code, _, err = runs.run(*command, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert before.items() <= rewards(folder).items()
    assert rewards(folder) == rewards(undisturbed[0])
    assert runs.commit_files(folder) == runs.commit_files(undisturbed[0])


def test_rows_of_another_engine_are_refused(undisturbed, config, ray_address):
    """One run, one kind of engine: a configuration that names another does not get its rows."""
    before = rewards(undisturbed[0])
    changed = (config, "run.id=two", "engine.kind=transformers")
    code, _, err = runs.run(*changed, RAY_ADDRESS=ray_address)
    assert code == 2
    assert "engine.kind='vllm', now 'transformers'" in err.splitlines()[-1]
    assert rewards(undisturbed[0]) == before


def test_transformers_may_judge_what_vllm_scored(config, ray_address):
    command = (config, "run.id=mixed", "engine.judge=transformers", "recentering.rounds=0")
    code, _, err = runs.run(*command, RAY_ADDRESS=ray_address)
    assert code == 0, err
    found = {(row["split"], row["engine"]) for row in runs.rows(config.parent / "runs/mixed")}
    scoring, judging = "vllm 0.32.0 float32 cpu tp1", "transformers float32 cpu eager"
    assert found == {
        ("support", scoring),
        ("validation", scoring),
        ("gate", judging),
        ("test", judging),
    }


def test_a_comparison_is_that_of_the_rows_that_vllm_made(config, ray_address):
    """Base, best single candidate and vote by hand; what is compared again is not scored again."""
    command = (config, "run.id=compared", "ray.engines=1", "recentering.rounds=0")
    command += ("compare.population=16", "compare.votes=3")
    code, _, err = runs.run(*command, job="compare", RAY_ADDRESS=ray_address)
    assert code == 0, err
    folder = config.parent / "runs/compared"
    made = (folder / "report/compare.json").read_text()
    table = runs.rows(folder)
    assert {row["engine"] for row in table} == {"vllm 0.32.0 float32 cpu tp1"}
    (base,) = {row["center_digest"] for row in table if row["split"] == "support"}
    population = [row for row in table if row["split"] == "support" and row["seeds"]]
    assert len(population) == 16
    population.sort(key=lambda row: (-row["mean_reward"], int(row["candidate_id"][3:])))
    tested = {
        row["direction_digest"]: row
        for row in table
        if row["split"] == "test" and row["center_digest"] == base
    }
    (center,) = [row for row in tested.values() if not row["seeds"]]
    voters = [tested[row["direction_digest"]] for row in population[:3]]
    vote = []
    for at, texts in enumerate(zip(*(row["texts"] for row in voters), strict=True)):
        counts = Counter(texts)
        winner = next(k for k, text in enumerate(texts) if counts[text] == max(counts.values()))
        vote.append(voters[winner]["rewards"][at])
    means = {row["name"]: row["mean"] for row in json.loads(made)["rows"]}
    assert {name: means[name] for name in ("base", "best_single", "majority_vote")} == {
        "base": pytest.approx(statistics.fmean(center["rewards"]), abs=1e-12),
        "best_single": pytest.approx(statistics.fmean(voters[0]["rewards"]), abs=1e-12),
        "majority_vote": pytest.approx(statistics.fmean(vote), abs=1e-12),
    }
    code, _, err = runs.run(*command, job="compare", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert len(runs.rows(folder)) == len(table)
    assert (folder / "report/compare.json").read_text() == made


def test_smollm2_goes_through_and_is_taken_up_without_scoring_again(tmp_path, ray_address):
    command = (
        runs.ROOT / "conf/demo.yaml",
        f"model.path={MODEL}",
        f"run.directory={tmp_path}",
        "engine.kind=vllm",
        "ray.engines=1",
        "engine.threads=2",
        "splits={support: 8, validation: 8, gate: 16, test: 24}",
        "population.size=3",
        "consolidation={quantiles: [0.5], inverse_temperatures: [5.0], steps: [2.0]}",
    )
    code, out, err = runs.run(*command, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert "test split" in out
    before = rewards(tmp_path / "demo")
    code, _, err = runs.run(*command, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert rewards(tmp_path / "demo") == before
    assert len([row for row in runs.rows(tmp_path / "demo") if row["split"] == "support"]) == 4
