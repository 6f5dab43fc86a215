"""Clusters that a run cannot use: nobody there, another Ray, a node without the model's files."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest
import ray

from tests import runs
from tests.on_cluster.networks import Namespaces

# The version that a head reports is a value in its key-value store, which every process that
# joins compares with its own.
CLAIM = """
import json, sys
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import GcsClient
store = GcsClient(address=sys.argv[1])
held = json.loads(store.internal_kv_get(CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER))
held["ray_version"] = sys.argv[2]
store.internal_kv_put(
    CLUSTER_METADATA_KEY, json.dumps(held).encode(), overwrite=True, namespace=KV_NAMESPACE_CLUSTER
)
"""


def driver(cluster, source, config, *overrides, **environment):
    """(exit code, standard output, standard error) of a run started on the head, not submitted."""
    command = [sys.executable, "-m", "jobs.posttrain", "--config", str(config), *overrides]
    environment = {"RAY_ADDRESS": cluster.gcs} | environment
    return runs.finish(cluster.start(command, cwd=source, **environment))


@contextmanager
def claimed(cluster, version):
    """The cluster says that another Ray runs it."""

    def claim(said):
        done = cluster.start([sys.executable, "-c", CLAIM, cluster.gcs, said], cwd=cluster.folder)
        code, _, err = runs.finish(done)
        assert code == 0, err

    claim(version)
    try:
        yield
    finally:
        claim(ray.__version__)


def test_an_address_without_a_cluster_is_one_line(cluster, source, tmp_path):
    config = runs.workspace(tmp_path)
    addresses = [f"{cluster.head.address}:9"]  # no such port
    if isinstance(cluster.network, Namespaces):  # elsewhere the machine's network decides
        addresses.append("10.99.0.250:6379")  # no such machine
    for address in addresses:
        code, out, err = driver(cluster, source, config, RAY_ADDRESS=address)
        assert code == 2, out + err
        assert f"RAY_ADDRESS='{address}': no Ray there" in err.splitlines()[-1]
    assert not (tmp_path / "runs/run/rewards").exists()


def test_another_ray_on_the_cluster_is_one_line_with_both_versions(cluster, source, tmp_path):
    config = runs.workspace(tmp_path)
    with claimed(cluster, "2.41.0"):
        code, out, err = driver(cluster, source, config)
    assert code == 2, out + err
    assert err.count("error: ") == 1
    line = err.splitlines()[-1]
    assert line.startswith(f"error: RAY_ADDRESS='{cluster.gcs}'")
    assert "2.41.0" in line
    assert ray.__version__ in line
    assert not (tmp_path / "runs/run/rewards").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["RAY_AUTH_TOKEN=another cluster's token"], "is RAY_AUTH_TOKEN the cluster's?"),
        (["-u", "RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN"),
    ],
    ids=["wrong", "none"],
)
def test_a_cluster_that_wants_another_token_is_one_line_that_says_so(
    cluster, source, tmp_path, changes, said
):
    config = runs.workspace(tmp_path)
    home = f"HOME={tmp_path}"  # a token may lie in the user's own
    job = [sys.executable, "-m", "jobs.posttrain", "--config", str(config)]
    few = {"RAY_ADDRESS": cluster.gcs, "RAY_NUM_REDIS_GET_RETRIES": "2"}
    code, out, err = runs.finish(cluster.start(["env", *changes, home, *job], cwd=source, **few))
    assert code == 2, out + err
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith(f"error: RAY_ADDRESS='{cluster.gcs}'")
    assert said in line
    assert not (tmp_path / "runs/run/rewards").exists()


def test_a_node_without_the_model_is_named_and_the_run_goes_on_without_it(
    cluster, source, undisturbed, tmp_path
):
    config, files = undisturbed
    model = config.parent / "model"
    bare = cluster.start_node(num_cpus=4, without=model)
    place = f"run.directory={tmp_path}"
    try:
        # So slow that the node's engine has its say before the run ends without it.
        slow = "engine.options.delay_s=1.0"
        ran = driver(cluster, source, config, place, slow, "ray.engines=0")
        # Nodes that have the model are too small for an engine of three threads.
        nowhere = f"run.directory={tmp_path}/nowhere"
        refused = driver(cluster, source, config, nowhere, "engine.threads=3", "ray.engines=0")
    finally:
        cluster.kill_node(bare)
        cluster.wait(lambda: bare.name not in cluster.alive(), "the node's end")
    code, out, err = ran
    assert code == 0, out + err
    (line,) = [line for line in err.splitlines() if "no engine is started there any more" in line]
    assert f"node {bare.address}: " in line
    assert str(model) in line
    assert runs.commit_files(tmp_path / "run") == files
    code, out, err = refused
    assert code == 2, out + err
    line = err.splitlines()[-1]
    assert line.startswith(f"error: node {bare.address}: ")
    assert str(model) in line
    assert not (tmp_path / "nowhere/run/rewards").exists()
