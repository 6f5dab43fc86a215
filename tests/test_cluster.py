"""Joining a cluster: which addresses, what fits on its nodes, what a driver brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from corp_ray import cluster
from corp_ray.cluster import EnginePlan
from corp_ray.errors import ConfigError
from tests import runs

CARRIED = """
import json, sys
import ray
from corp_ray import cluster

cluster.connect(["tests.graders", "numpy"])

@ray.remote
def where():
    import corp_ray, numpy, tests.graders
    return [corp_ray.__file__, tests.graders.__file__, numpy.__file__]

sys.stdout.write(json.dumps(ray.get(where.remote())))
"""


@pytest.mark.parametrize(
    ("plan", "nodes", "fits"),
    [
        (EnginePlan(0, 2, 0), [{"CPU": 5.0}, {"CPU": 1.0}, {"CPU": 4.0}], 4),
        (EnginePlan(0, 1, 1), [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 64.0}], 4),
        (EnginePlan(0, 4, 1), [{"CPU": 8.0, "GPU": 4.0}], 2),
        (EnginePlan(0, 1, 0.25), [{"CPU": 8.0, "GPU": 1.0}], 4),
        (EnginePlan(0, 1, 0), [{"object_store_memory": 1.0}], 0),
    ],
)
def test_as_many_engines_fit_as_the_scarcer_resource_allows_on_each_node(plan, nodes, fits):
    assert plan.fits(nodes) == fits


def test_a_limit_is_asked_for_whether_it_fits_or_not_and_no_limit_means_what_fits():
    assert EnginePlan(0, 1, 0).wanted(3) == 3
    assert EnginePlan(8, 1, 0).wanted(3) == 8
    assert EnginePlan(2, 1, 0).wanted(3) == 2


def test_the_place_of_a_judge_stays_free():
    assert EnginePlan(0, 1, 0, spare=1).wanted(3) == 2
    assert EnginePlan(8, 1, 0, spare=1).wanted(3) == 2
    assert EnginePlan(0, 4, 2, ranks=2, spare=1).judge() == EnginePlan(1, 2, 1)


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("ray://head:10001", "use `ray job submit"),
        ("http://head:8265", "use `ray job submit"),
        ("head", "expected host:port, auto or local"),
        ("127.0.0.1:1", "no Ray there"),
    ],
)
def test_an_address_that_a_driver_cannot_join_is_refused_with_what_would_be_right(
    monkeypatch, address, part
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=part) as refused:
        cluster.connect()
    assert str(refused.value).startswith(f"RAY_ADDRESS={address!r}: ")


def test_a_driver_brings_its_package_and_the_users_modules_but_nothing_installed(
    tmp_path, ray_address
):
    done = subprocess.run(
        [sys.executable, "-c", CARRIED],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray_address, "PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package, grader, installed = json.loads(done.stdout)
    assert "py_modules_files" in package
    assert "py_modules_files" in grader
    assert "py_modules_files" not in installed


def test_a_submitted_job_with_a_working_directory_brings_nothing_more(monkeypatch):
    job = {"runtime_env": {"working_dir": "gcs://package.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert cluster._carried(["tests.graders"]) == {}
