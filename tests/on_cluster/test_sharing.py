"""Several jobs on one cluster: two runs, and two shards that fill one table."""

from __future__ import annotations

from tests import runs
from tests.on_cluster.watching import assert_same_and_once, engines, measured, until


def posttrain(config, place, *overrides):
    command = ("python", "-m", "jobs.posttrain", f"--config={config}", f"run.directory={place}")
    return (*command, *overrides)


def test_two_runs_share_the_cluster_and_leave_nothing_on_it(
    cluster, source, submission, undisturbed, tmp_path
):
    config, files = undisturbed
    head = cluster.alive()["head"]
    earlier = {actor["actor_id"] for actor in cluster.actors(dead=True)}
    slow = ("ray.engines=1", "engine.options.delay_s=0.3")
    processes = {
        name: cluster.submit(
            source, submission(), *posttrain(config, tmp_path, f"run.id={name}", *slow)
        )
        for name in ("one", "two")
    }
    for name, process in processes.items():
        until(process, lambda name=name: engines(cluster, name), f"an engine of {name}")
    both = [a for name in processes for a in engines(cluster, name)]
    assert sorted(a["name"] for a in both) == ["corp_ray/one/scorer/1", "corp_ray/two/scorer/1"]
    assert all(process.poll() is None for process in processes.values()), "they were not at once"
    for name, process in processes.items():
        code, out, err = runs.finish(process)
        assert code == 0, out + err
        assert_same_and_once(tmp_path / name, files)
    cluster.wait(lambda: not cluster.actors(), "the end of their actors")
    assert cluster.placement_groups() == []
    # What needs no engine works where the driver does: no other node need have the model's files.
    these = [a for a in cluster.actors(dead=True) if a["actor_id"] not in earlier]
    others = [a for a in these if a["class_name"] in ("Gate", "Reducer")]
    assert {a["class_name"] for a in others} == {"Gate", "Reducer"}
    assert {a["node_id"] for a in others} == {head}


def test_two_shards_fill_one_table_and_a_third_job_commits_from_it(
    cluster, source, submission, undisturbed, tmp_path
):
    config, files = undisturbed
    root = tmp_path / "run"
    shards = [
        cluster.submit(
            source,
            submission(),
            *("python", "-m", "jobs.score", f"--config={config}", f"run.directory={tmp_path}"),
            *(f"score.shard={shard}", "score.shards=2", "ray.engines=1"),
        )
        for shard in range(2)
    ]
    for process in shards:
        code, out, err = runs.finish(process)
        assert code == 0, out + err
    scored = measured(root)
    assert len(scored) == 1 + 24
    assert not list(root.glob("rounds/*"))

    job, before = submission(), engines(cluster, "run", dead=True)
    larger = posttrain(config, tmp_path, "--from-rewards", "population.size=30")
    code, out, err = runs.finish(cluster.submit(source, job, *larger))
    assert code == 1, out + err
    assert cluster.job(job)["driver_exit_code"] == 2
    (line,) = [x for x in cluster.job(job)["message"].splitlines() if x.startswith("error: ")]
    assert "6 of 30 candidates have no reward yet" in line
    after = engines(cluster, "run", dead=True)
    assert {a["actor_id"] for a in after} == {a["actor_id"] for a in before}, "engines for nothing"
    assert measured(root) == scored

    consolidate = posttrain(config, tmp_path, "--from-rewards")
    code, out, err = runs.finish(cluster.submit(source, submission(), *consolidate))
    assert code == 0, out + err
    assert scored.items() < measured(root).items()
    assert_same_and_once(root, files)
