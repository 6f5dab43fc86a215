"""What happens to engines and nodes during a run, on real Ray processes with the fake engine."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

from corp_ray.population import candidate_hash
from tests import runs
from tests.on_cluster.watching import row_count


@pytest.fixture
def nodes():
    """A Ray cluster whose nodes a test may add and take away; the head has no CPUs."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 80 * 2**20,
            "include_dashboard": False,
        },
    )
    yield cluster
    cluster.shutdown()


def add_node(cluster, cpus=1):
    return cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_address):
    """Configuration and committed files of a run that went through undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = runs.workspace(folder, **{"engine.options.delay_s": 0.1})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    files = runs.commit_files(folder / "runs/run")
    assert files
    return config, files


def keys(root):
    return [(r["center_digest"], r["split"], r["direction_digest"]) for r in runs.rows(root)]


def assert_same_and_once(root, files):
    assert runs.commit_files(root) == files
    found = keys(root)
    assert found
    assert len(found) == len(set(found))


def wait_for(condition, process, timeout_s=180):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def restarts(root):
    lines = (root / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(line)["restarts"] for line in lines)


@pytest.mark.parametrize("grader", ["numeric", "tests.bad_graders:slow"])
def test_a_candidate_that_kills_three_engines_is_set_aside_counted_and_not_tried_again(
    tmp_path, ray_address, grader
):
    """Whether it runs by itself, or while the answers of the one before it are being graded."""
    seed, _ = candidate_hash(0, 0, 5)
    changes = {"engine.options.fatal": f"[{seed}]", "task.grader": grader}
    config = runs.workspace(tmp_path, **changes)
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert err.count("set aside: r0c5 on support (its engine was lost") == 1
    root = tmp_path / "runs/run"
    (noted,) = [json.loads(line) for line in (root / "set_aside.jsonl").read_text().splitlines()]
    assert (noted["candidate"], noted["split"], noted["round"]) == ("r0c5", "support", 0)
    assert noted["attempts"] == 3
    assert restarts(root) == 3
    record = json.loads((root / "rounds/0.json").read_text())
    assert (record["population"], record["set_aside"]) == (24, 1)
    assert "r0c5" not in record["support"]["constructive"]
    support = [r["candidate_id"] for r in runs.rows(root) if r["split"] == "support"]
    assert "r0c5" not in support
    assert support.count("r0c4") == 1
    shutil.rmtree(root / "rounds")
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    assert "was lost" not in err


def test_too_many_candidates_set_aside_end_the_run_with_the_reason(tmp_path, ray_address):
    seeds = [candidate_hash(0, 0, k)[0] for k in (5, 6)]
    config = runs.workspace(tmp_path, **{"engine.options.fatal": str(seeds), "ray.attempts": 1})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: 2 candidates of support could not be scored")
    assert "ray.max_set_aside=0.05 allows 1" in last
    # Again it ends, not with a smaller population; when it is allowed, from the rows that are there.
    # A share of the 24 that are members: the center, scored with them, does not make it two.
    code, _, err = runs.run(config, "ray.max_set_aside=0.08", RAY_ADDRESS=ray_address)
    assert code == 1 and "ray.max_set_aside=0.08 allows 1" in err.splitlines()[-1]
    for more in ([], ["run.from_rewards=."]):
        code, _, err = runs.run(config, "ray.max_set_aside=0.1", *more, RAY_ADDRESS=ray_address)
        assert code == 0, err
    record = json.loads((tmp_path / "runs/run/rounds/0.json").read_text())
    assert (record["population"], record["set_aside"]) == (24, 2)


@pytest.mark.parametrize("engines", [1, 4])
def test_a_deadly_step_takes_no_other_of_its_direction_along(tmp_path, ray_address, engines):
    """How many steps an engine sweeps at a time depends on the engines; who is set aside must not."""
    changes = {"engine.options.fatal_steps": "[4.0]", "ray.attempts": 1, "ray.engines": engines}
    changes |= {"ray.max_set_aside": 0.5, "recentering.rounds": 0}
    config = runs.workspace(tmp_path, **changes)
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    root = tmp_path / "runs/run"
    lines = (root / "set_aside.jsonl").read_text().splitlines()
    aside = [json.loads(line)["candidate"] for line in lines]
    proposals = [p["id"] for p in json.loads((root / "rounds/0.json").read_text())["proposals"]]
    combinations = {name.rpartition("s")[0] for name in proposals}
    assert len(combinations) > 1
    assert sorted(proposals) == sorted(f"{one}s{step}" for one in combinations for step in (1, 2))
    assert sorted(aside) == sorted(f"{one}s4" for one in combinations)


def test_a_hung_engine_is_found_by_its_deadline_and_replaced(undisturbed, tmp_path, ray_address):
    config, files = undisturbed
    trap = tmp_path / "trap"
    process = runs.start(
        config,
        f"run.directory={tmp_path}",
        f"engine.options.hang_once={trap}",
        "ray.engines=1",
        "ray.hang_floor_s=3",
        RAY_ADDRESS=ray_address,
    )
    wait_for(lambda: row_count(tmp_path / "run") >= 4, process)
    trap.touch()
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert not trap.exists()
    assert "was lost; starting another (no answer within its deadline)" in err
    assert_same_and_once(tmp_path / "run", files)


def test_a_straggler_does_not_hold_a_round_and_leaves_one_row(undisturbed, tmp_path, ray_address):
    config, files = undisturbed
    trap = tmp_path / "trap"
    process = runs.start(
        config,
        f"run.directory={tmp_path}",
        f"engine.options.hang_once={trap}",
        RAY_ADDRESS=ray_address,
    )
    wait_for(lambda: row_count(tmp_path / "run") >= 6, process)
    trap.touch()
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert not trap.exists()
    assert restarts(tmp_path / "run") == 0
    assert_same_and_once(tmp_path / "run", files)


def test_sigterm_drains_and_the_same_command_finishes(undisturbed, tmp_path, ray_address):
    config, files = undisturbed
    root = tmp_path / "run"
    arguments = (config, f"run.directory={tmp_path}", "engine.options.delay_s=0.8")
    process = runs.start(*arguments, RAY_ADDRESS=ray_address)
    wait_for(lambda: row_count(root) > 0, process)
    before = len(runs.rows(root))
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    code, _, err = runs.finish(process, timeout_s=40)
    assert code == 143, err
    assert err.splitlines()[-1].startswith("error: stopped by SIGTERM; the same command")
    drained = set(keys(root))
    assert before < len(drained) <= before + 3, "what ran was waited for, nothing new was begun"
    assert not (root / "lease.json").exists()
    code, _, err = runs.run(
        config, f"run.directory={tmp_path}", "engine.options.delay_s=0.8", RAY_ADDRESS=ray_address
    )
    assert code == 0, err
    assert drained <= set(keys(root))
    assert_same_and_once(root, files)


def test_sigterm_ends_a_run_whose_engine_does_not_answer_after_drain_s(
    undisturbed, tmp_path, ray_address
):
    process = runs.start(
        undisturbed[0],
        f"run.directory={tmp_path}",
        "engine.options.delay_s=600",
        "ray.drain_s=1",
        RAY_ADDRESS=ray_address,
    )
    wait_for(lambda: (tmp_path / "run/rewards").is_dir(), process)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _, err = runs.finish(process, timeout_s=60)
    assert code == 143, err
    assert time.monotonic() - begin < 30


def test_a_run_takes_engines_as_nodes_join_and_goes_on_when_one_is_lost(
    undisturbed, tmp_path, nodes
):
    config, files = undisturbed
    first = add_node(nodes)
    root = tmp_path / "run"
    process = runs.start(
        config,
        f"run.directory={tmp_path}",
        "engine.options.delay_s=0.4",
        "ray.engines=0",
        RAY_ADDRESS=nodes.address,
    )
    wait_for(lambda: row_count(root) >= 2, process)
    add_node(nodes)
    wait_for(lambda: row_count(root) >= 12, process)
    nodes.remove_node(first, allow_graceful=False)
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert_same_and_once(root, files)


def test_a_run_waits_for_the_first_node_that_holds_an_engine(undisturbed, tmp_path, nodes):
    config, files = undisturbed
    process = runs.start(
        config,
        f"run.directory={tmp_path}",
        "ray.engines=0",
        "ray.wait_s=120",
        RAY_ADDRESS=nodes.address,
    )
    time.sleep(5)
    assert process.poll() is None
    add_node(nodes)
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert "no node has more than 0 CPUs; waiting up to 120 s for nodes" in err
    assert_same_and_once(tmp_path / "run", files)


def test_a_node_without_the_model_is_named_and_left_out(undisturbed, tmp_path, nodes):
    config, files = undisturbed
    good, bad = add_node(nodes), add_node(nodes)
    marks = tmp_path / "unfit"
    marks.write_text(bad.node_id)
    code, _, err = runs.run(
        config,
        f"run.directory={tmp_path}",
        f"engine.options.unfit={marks}",
        "ray.engines=0",
        RAY_ADDRESS=nodes.address,
    )
    assert code == 0, err
    assert err.count("no engine is started there any more") == 1
    assert f"node {bad.node_ip_address}: " in err
    assert_same_and_once(tmp_path / "run", files)
    marks.write_text(f"{good.node_id} {bad.node_id}")
    code, _, err = runs.run(
        config,
        f"run.directory={tmp_path}/none",
        f"engine.options.unfit={marks}",
        "ray.engines=0",
        RAY_ADDRESS=nodes.address,
    )
    assert code == 2
    assert "no such folder" in err.splitlines()[-1]
    assert not (tmp_path / "none").exists()


def test_scorers_that_work_nowhere_end_a_run_whose_judge_has_a_place(tmp_path, nodes):
    """What is left without one node is the judge's: no other scorer can be started."""
    marks = tmp_path / "unfit"
    marks.write_text(" ".join(add_node(nodes).node_id for _ in range(2)))
    config = runs.workspace(tmp_path / "here")
    code, _, err = runs.run(
        config,
        "engine.judge=tests.fake_engine:FakeJudge",
        f"engine.options.unfit={marks}",
        "ray.engines=0",
        RAY_ADDRESS=nodes.address,
    )
    assert code == 2, err
    assert "no such folder" in err.splitlines()[-1]


def test_a_judge_that_works_nowhere_ends_a_run_whose_scorers_hold_all_other_places(tmp_path, nodes):
    for _ in range(2):
        add_node(nodes)
    config = runs.workspace(tmp_path / "here")
    code, _, err = runs.run(
        config,
        "engine.judge=tests.fake_engine:UnfitJudge",
        "ray.engines=0",
        RAY_ADDRESS=nodes.address,
    )
    assert code == 2, err
    assert "not for this judge" in err.splitlines()[-1]
    assert not (tmp_path / "here/runs/run/rewards").exists()


def test_two_runs_share_a_cluster_without_touching_each_other(undisturbed, tmp_path, ray_address):
    config, files = undisturbed
    both = [
        runs.start(config, f"run.directory={tmp_path / name}", RAY_ADDRESS=ray_address)
        for name in ("a", "b")
    ]
    for process, name in zip(both, ("a", "b"), strict=True):
        code, _, err = runs.finish(process)
        assert code == 0, err
        assert_same_and_once(tmp_path / name / "run", files)


def test_a_run_directory_in_a_submitted_jobs_temporary_copy_is_refused(tmp_path):
    config = runs.workspace(tmp_path)
    code, _, err = runs.run(config, "run.directory=runs", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert code == 2
    assert err.startswith("error: run.directory='runs': expected an absolute path or a URL")
