"""Whole runs on real Ray processes with the fake engine: commits, digests, growth, lost actors."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from tests import runs


def commit_digests(run_directory):
    """Digest of each committed recipe's weights file."""
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in runs.commit_files(run_directory).items()
        if name.endswith(".safetensors")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_address):
    """A run that went through undisturbed on two engines."""
    folder = tmp_path_factory.mktemp("finished")
    code, out, err = runs.run(runs.workspace(folder), RAY_ADDRESS=ray_address)
    assert code == 0, err
    return folder, out, err


def test_a_run_commits_a_better_model_and_says_so(finished):
    folder, out, err = finished
    measured = json.loads((folder / "runs/run/report/test.json").read_text())["test"]
    by_name = {row["name"]: row for row in measured}
    assert by_name["committed"]["gain"] > 0.1
    assert by_name["committed"]["mean"] > by_name["best single"]["mean"]
    assert by_name["committed"]["low"] > 0
    assert "accepted" in err
    assert "lower bound" in err
    assert "committed model:" in out


def test_a_run_leaves_what_the_method_page_lists(finished):
    root = finished[0] / "runs/run"
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "rounds/0.json"):
        assert (root / name).is_file(), name
    assert {"README.md", "config.json", "model.safetensors", "recipe.json"} <= {
        path.name for path in (root / "commits/1").iterdir()
    }
    assert not list(root.rglob(".staged*"))
    assert not list(root.rglob("*.tmp"))


def test_no_direction_has_two_rows(finished):
    keys = [
        (row["center_digest"], row["split"], row["direction_digest"])
        for row in runs.rows(finished[0] / "runs/run")
    ]
    assert keys
    assert len(keys) == len(set(keys))


def test_the_test_split_is_read_by_the_final_table_alone(finished):
    test_rows = [r for r in runs.rows(finished[0] / "runs/run") if r["split"] == "test"]
    assert len(test_rows) == 3


@pytest.mark.parametrize("engines", [1, 3])
def test_the_number_of_engines_does_not_change_the_commit(finished, tmp_path, ray_address, engines):
    config = runs.configuration(finished[0])
    code, _, err = runs.run(
        config,
        f"run.directory={tmp_path}",
        f"ray.engines={engines}",
        RAY_ADDRESS=ray_address,
    )
    assert code == 0, err
    assert runs.commit_files(tmp_path / "run") == runs.commit_files(finished[0] / "runs/run")


def test_later_rounds_use_the_subspace_unless_that_is_turned_off(finished, tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"recentering.low_rank": False})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err

    def later(folder):
        return [
            len(row["seeds"])
            for row in runs.rows(folder / "runs/run")
            if (row["kind"], row["round"], row["split"]) == ("candidate", 1, "support")
        ]

    assert later(tmp_path) == [1] * 12
    assert min(later(finished[0])) > 1 and len(later(finished[0])) == 12


def test_running_a_finished_run_again_scores_nothing(finished, tmp_path, ray_address):
    copy = tmp_path / "runs"
    shutil.copytree(finished[0] / "runs", copy)
    before = len(runs.rows(copy / "run"))
    code, out, err = runs.run(
        runs.configuration(finished[0]), f"run.directory={copy}", RAY_ADDRESS=ray_address
    )
    assert code == 0, err
    assert out.splitlines()[:8] == finished[1].splitlines()[:8]
    assert len(runs.rows(copy / "run")) == before


def test_a_larger_population_extends_and_keeps_the_old_decisions(finished, tmp_path, ray_address):
    copy = tmp_path / "runs"
    shutil.copytree(finished[0] / "runs", copy)
    code, _, err = runs.run(
        runs.configuration(finished[0]),
        f"run.directory={copy}",
        "population.size=30",
        RAY_ADDRESS=ray_address,
    )
    assert code == 0, err
    first_round = [
        r for r in runs.rows(copy / "run") if r["kind"] == "candidate" and r["split"] == "support"
    ]
    base = first_round[0]["center_digest"]
    isotropic = [r["candidate_id"] for r in first_round if r["candidate_id"].startswith("r0")]
    assert sorted(isotropic) == sorted(f"r0c{k}" for k in range(30))
    assert base
    assert (copy / "run/superseded/1/rounds/0.json").is_file()
    assert (copy / "run/superseded/1/commits/1/recipe.json").is_file()
    looks = [
        json.loads(path.read_text())["verdict"] for path in (copy / "run").rglob("rounds/*.json")
    ]
    numbers = sorted(verdict["look"] for verdict in looks if verdict)
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("how", ["die_once", "lose_once"])
def test_an_engine_that_dies_or_is_lost_is_replaced_and_the_commit_is_the_same(
    finished, tmp_path, ray_address, how
):
    trap = tmp_path / "trap"
    trap.touch()
    config = runs.configuration(finished[0], **{f"engine.options.{how}": trap})
    code, _, err = runs.run(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert not trap.exists()
    assert "was lost; starting another" in err
    assert runs.commit_files(tmp_path / "run") == runs.commit_files(finished[0] / "runs/run")


def test_an_engine_lost_in_its_start_is_replaced_and_its_node_stays_in_use(
    finished, tmp_path, ray_address
):
    trap = tmp_path / "trap"
    trap.touch()
    config = runs.configuration(finished[0], **{"engine.options.lose_first": trap})
    place = f"run.directory={tmp_path}"
    code, _, err = runs.run(config, place, "ray.engines=1", RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert not trap.exists()
    assert "an engine failed to start (a rank does not answer); starting another" in err
    assert runs.commit_files(tmp_path / "run") == runs.commit_files(finished[0] / "runs/run")


def test_more_gpus_an_engine_than_a_node_has_is_refused_before_an_engine_starts(
    finished, tmp_path, ray_address
):
    code, _, err = runs.run(
        runs.configuration(finished[0]),
        f"run.directory={tmp_path}",
        "ray.gpus_per_engine=2",
        RAY_ADDRESS=ray_address,
    )
    assert code == 2
    assert "ray.gpus_per_engine=2" in err.splitlines()[-1]
    assert "starting" not in err
    assert not list(tmp_path.iterdir())


def test_an_engine_that_holds_other_weights_than_the_staged_folder_stops_the_run(
    finished, tmp_path, ray_address
):
    config = runs.configuration(finished[0], **{"engine.options.wrong_digest": True})
    code, _, err = runs.run(config, f"run.directory={tmp_path}", RAY_ADDRESS=ray_address)
    assert code == 1
    assert "the staged folder" in err.splitlines()[-1]
    assert not (tmp_path / "run/commits/1").exists()


def failing_grader(answer: str, text: str) -> float:
    raise RuntimeError("broken")


def test_a_verifier_that_fails_stops_the_run_and_leaves_no_row(tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"task.grader": "tests.test_run:failing_grader"})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 2
    assert "the verifier failed on 100%" in err.splitlines()[-1]
    assert runs.rows(tmp_path / "runs/run") == []


def test_a_run_without_signal_ships_the_base_and_says_so(tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"engine.options.gain": 0.0})
    code, out, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert "the gate accepted nothing: the base model stands" in out
    assert not runs.commit_files(tmp_path / "runs/run")


def test_another_engine_judges_only_where_rows_say_so(finished, tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"engine.judge": "tests.fake_engine:FakeJudge"})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    rows = runs.rows(tmp_path / "runs/run")
    assert {(row["split"], row["engine"]) for row in rows} == {
        ("support", "fake bfloat16"),
        ("validation", "fake bfloat16"),
        ("gate", "judge bfloat16"),
        ("test", "judge bfloat16"),
    }
    assert commit_digests(tmp_path / "runs/run") == commit_digests(finished[0] / "runs/run")
    code, _, err = runs.run(config, "engine.judge=vllm", RAY_ADDRESS=ray_address)
    assert code == 2
    assert "engine.judge='tests.fake_engine:FakeJudge', now 'vllm'" in err.splitlines()[-1]


def test_a_judge_needs_a_place_of_its_own(tmp_path, ray_address):
    config = runs.workspace(
        tmp_path, **{"engine.judge": "tests.fake_engine:FakeJudge", "engine.threads": 4}
    )
    code, _, err = runs.run(config, "ray.engines=0", RAY_ADDRESS=ray_address)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: engine.judge: ")
    assert not (tmp_path / "runs").exists()


def test_a_failed_self_check_leaves_no_run_directory(tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"engine.options.deaf": True})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: self-check: model.layers")
    assert not (tmp_path / "runs").exists()
