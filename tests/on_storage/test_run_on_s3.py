"""Whole runs with their directory on a real S3 server: the bytes of a local run, also after kills.

Ray's processes have the credentials in their environment, as the nodes of a cluster would.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time

import pyarrow.parquet as pq
import pytest

from tests import runs
from tests.s3_server import CREDENTIALS, serving

KILLS = 3


@pytest.fixture(scope="module")
def s3():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def ray_there(tmp_path_factory):
    """Environment of a driver: the address of a Ray head of its own, and the credentials."""
    given = {**CREDENTIALS, "CORP_RAY_CACHE": str(tmp_path_factory.mktemp("cache"))}
    before = dict(os.environ)
    os.environ.update(given)
    try:
        cluster = runs.ray_head()
    finally:
        os.environ.clear()
        os.environ.update(before)
    yield {**given, "RAY_ADDRESS": cluster.address}
    cluster.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory, ray_there):
    """(configuration, committed files) of an undisturbed run on the local disk."""
    folder = tmp_path_factory.mktemp("local")
    config = runs.workspace(folder, **{"engine.options.delay_s": 0.05})
    code, _, err = runs.run(config, **ray_there)
    assert code == 0, err
    files = runs.commit_files(folder / "runs/run")
    assert files
    return config, files


def below(s3, prefix):
    return {key.removeprefix(prefix): data for key, data in s3.objects(prefix).items()}


def keys(s3, root):
    """(center, split, direction) of every row of every part on the server."""
    return [
        (row["center_digest"], row["split"], row["direction_digest"])
        for data in below(s3, f"{root}/rewards/").values()
        for row in pq.read_table(io.BytesIO(data)).to_pylist()
    ]


def same_and_once(s3, root, files):
    assert below(s3, f"{root}/commits/") == files
    scored = keys(s3, root)
    assert len(scored) == len(set(scored)) > 0
    everything = s3.objects(root)
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert all(secret not in data for data in everything.values())
    assert not [key for key in everything if "lease" in key or key.endswith(".tmp")]


@pytest.fixture(scope="module")
def on_s3(s3, local, ray_there):
    config, _ = local
    code, out, err = runs.run(config, f"run.directory={s3.url('whole')}", **ray_there)
    assert code == 0, err
    return out, err


def test_a_run_on_s3_commits_the_bytes_of_a_local_run(s3, local, on_s3):
    config, files = local
    same_and_once(s3, "whole/run", files)
    assert "s3://bucket/whole/run/commits/1" in on_s3[0]
    there = {key.partition("/")[0] for key in below(s3, "whole/run/")}
    here = {path.name for path in (config.parent / "runs/run").iterdir()}
    assert there == here
    phases = [
        json.loads(line)["phase"] for line in s3.objects()["whole/run/metrics.jsonl"].splitlines()
    ]
    assert "round 0: population" in phases
    assert all(CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in text for text in on_s3)


def test_a_commit_without_its_recipe_does_not_exist_and_is_replaced(s3, local, on_s3, ray_there):
    """And is replaced whole, also on a node whose cache holds nothing of it."""
    config, files = local
    scored = sorted(keys(s3, "whole/run"))
    s3.client.delete_object(Bucket="bucket", Key="whole/run/commits/1/recipe.json")
    s3.client.put_object(Bucket="bucket", Key="whole/run/commits/1/stale", Body=b"x")
    code, _, err = runs.run(config, f"run.directory={s3.url('whole')}", **ray_there)
    assert code == 0, err
    same_and_once(s3, "whole/run", files)
    assert sorted(keys(s3, "whole/run")) == scored


def test_a_commit_on_s3_is_measured_and_rebuilt_by_its_url(s3, local, on_s3, ray_there, tmp_path):
    config, files = local
    there = s3.url("whole/run/commits/1")
    arguments = [f"run.directory={s3.url('measured')}", f"evaluate.model={there}"]
    code, _, err = runs.run(config, *arguments, job="evaluate", **ray_there)
    assert code == 0, err
    report = json.loads(s3.objects()["measured/run-evaluate/report/evaluate-1.json"])
    test = json.loads(s3.objects()["whole/run/report/test.json"])["test"]
    assert [row["mean"] for row in report["test"]] == [test[0]["mean"], test[-1]["mean"]]
    recipe = s3.url("whole/run/commits/1/recipe.json")
    code, _, err = runs.export(recipe, tmp_path / "rebuilt", **ray_there)
    assert code == 0, err
    rebuilt = {f"1/{path.name}": path.read_bytes() for path in (tmp_path / "rebuilt").iterdir()}
    assert rebuilt == files


def test_kills_during_writes_change_nothing_and_score_nothing_twice(s3, local, ray_there):
    config, files = local
    moments = random.Random(20_261_124)
    killed, held = 0, set()
    while killed < KILLS:
        process = runs.start(config, f"run.directory={s3.url('killed')}", **ray_there)
        begin, more = len(s3.keys("killed")), moments.randint(2, 14)
        while process.poll() is None and len(s3.keys("killed")) < begin + more:
            time.sleep(moments.uniform(0, 0.03))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
        assert held <= set(keys(s3, "killed/run"))
        held = set(keys(s3, "killed/run"))
    assert killed >= 2
    code, _, err = runs.run(config, f"run.directory={s3.url('killed')}", **ray_there)
    assert code == 0, err
    same_and_once(s3, "killed/run", files)
    assert held <= set(keys(s3, "killed/run"))


def test_a_second_driver_on_s3_is_refused_while_the_first_lives(s3, local, ray_there):
    config, _ = local
    given = [f"run.directory={s3.url('two')}", "engine.options.delay_s=0.3", "ray.engines=1"]
    first = runs.start(config, *given, **ray_there)
    while "two/run/lease.json" not in s3.keys("two"):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.1)
    code, _, err = runs.run(config, *given, **ray_there)
    assert code == 2
    assert "another driver is at work there" in err.splitlines()[-1]
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()


@pytest.mark.parametrize(
    ("directory", "parts"),
    [
        ("s3://nowhere/runs", ["no such bucket"]),
        ("s4://bucket/runs", ["unknown scheme 's4'"]),
        ("s3://who:hush@bucket/runs", ["holds credentials"]),
    ],
)
def test_a_storage_that_cannot_be_used_ends_the_job_before_ray(s3, local, directory, parts):
    options = s3.url("").partition("?")[2]
    given = f"{directory}?{options}" if "nowhere" in directory else directory
    code, out, err = runs.run(
        local[0], f"run.directory={given}", **{**CREDENTIALS, "RAY_ADDRESS": "127.0.0.1:1"}
    )
    assert code == 2, err
    lines = err.splitlines()
    assert lines[-1].startswith("error: run.directory='")
    assert "hush" not in err
    assert out == ""
    for part in parts:
        assert part in lines[-1]


def test_a_comparison_on_s3_has_the_numbers_of_a_local_one(s3, local, on_s3, ray_there):
    config, _ = local
    methods = "compare.methods=[majority_vote,ungated,committed]"
    found = []
    for more in ([], [f"run.directory={s3.url('whole')}"]):
        arguments = ("compare.votes=4", methods, *more)
        code, _, err = runs.run(config, *arguments, job="compare", **ray_there)
        assert code == 0, err
    here = (config.parent / "runs/run/report/compare.json").read_bytes()
    for content in (here, s3.objects("whole/run/report/compare.json").popitem()[1]):
        found.append(json.loads(content))
        for row in found[-1]["rows"]:
            assert row["search"].pop("engine_s") >= 0
    assert found[0] == found[1] and len(found[0]["rows"]) >= 5
