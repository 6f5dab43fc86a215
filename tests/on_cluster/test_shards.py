"""Several jobs fill one reward table, and one consolidates it."""

from __future__ import annotations

import json
import shutil

import pytest

from tests import runs


@pytest.fixture(scope="module")
def alone(tmp_path_factory, ray_address):
    """A run that scored its own population."""
    folder = tmp_path_factory.mktemp("alone")
    config = runs.workspace(folder)
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    return config, runs.commit_files(folder / "runs/run")


def support(root):
    """Ids of round 0's candidates with a row on support, once per row."""
    found = [r["candidate_id"] for r in runs.rows(root) if r["split"] == "support"]
    return sorted(name for name in found if name.startswith("r0c") and name != "r0center")


def shard(config, place, number, ray_address, start=runs.start):
    return start(
        config,
        f"run.directory={place}",
        f"score.shard={number}",
        "score.shards=2",
        "ray.engines=1",
        job="score",
        RAY_ADDRESS=ray_address,
    )


def test_two_jobs_at_once_fill_a_table_that_a_third_consolidates_to_the_same_commit(
    alone, tmp_path, ray_address
):
    config, files = alone
    root = tmp_path / "run"
    code, _, err = runs.run(
        config, "--from-rewards", f"run.directory={tmp_path}", RAY_ADDRESS=ray_address
    )
    assert code == 2
    assert "run.from_rewards='.': 24 of 24 candidates have no reward yet" in err.splitlines()[-1]
    assert not root.exists()
    both = [shard(config, tmp_path, number, ray_address) for number in (0, 1)]
    outputs = []
    for process in both:
        code, out, err = runs.finish(process)
        assert code == 0, err
        outputs.append(out)
    assert "shard 0 of 2: 12 candidates scored" in outputs[0]
    assert any("24 of 24 are in the table" in out for out in outputs)
    assert support(root) == sorted(f"r0c{k}" for k in range(24))
    assert not (root / "rounds").exists() or not list((root / "rounds").iterdir())
    code, _, err = runs.run(
        config, "--from-rewards", f"run.directory={tmp_path}", RAY_ADDRESS=ray_address
    )
    assert code == 0, err
    assert support(root) == sorted(f"r0c{k}" for k in range(24))
    assert runs.commit_files(root) == files


def test_a_shard_is_refused_while_the_same_one_is_at_work(alone, tmp_path, ray_address):
    config = alone[0]
    slow = "engine.options.delay_s=0.5"
    first = runs.start(
        config, slow, f"run.directory={tmp_path}", job="score", RAY_ADDRESS=ray_address
    )
    while not (tmp_path / "run/rewards").is_dir():
        assert first.poll() is None, first.communicate()[1]
    code, _, err = runs.run(
        config, slow, f"run.directory={tmp_path}", job="score", RAY_ADDRESS=ray_address
    )
    assert code == 2
    assert "another driver is at work there" in err.splitlines()[-1]
    first.terminate()
    assert runs.finish(first)[0] == 143


def test_a_run_may_rest_on_the_rewards_of_another(alone, tmp_path, ray_address):
    config, files = alone
    code, _, err = runs.run(
        config,
        f"run.directory={tmp_path}",
        f"run.from_rewards={config.parent}/runs/run",
        RAY_ADDRESS=ray_address,
    )
    assert code == 0, err
    root = tmp_path / "run"
    assert runs.commit_files(root) == files
    phases = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    (population,) = [p for p in phases if p["phase"] == "round 0: population"]
    assert population["rows"] == 0, "nothing was scored again"
    other = tmp_path / "other"
    shutil.copytree(config.parent / "runs/run", other / "run")
    code, _, err = runs.run(
        config,
        f"run.directory={tmp_path}/third",
        f"run.from_rewards={other}/run",
        "decoding.max_new_tokens=9",
        RAY_ADDRESS=ray_address,
    )
    assert code == 2
    assert "decoding_digest" in err.splitlines()[-1]


@pytest.mark.parametrize("setting", ["score.shard=2", "score.shards=0", "score.shard=-1"])
def test_a_shard_that_is_none_is_refused_by_name(alone, tmp_path, setting):
    code, _, err = runs.run(
        alone[0], f"run.directory={tmp_path}", "score.shards=2", setting, job="score"
    )
    assert code == 2
    assert err.startswith(f"error: {setting.partition('=')[0]}=")
