"""Tests on a real Ray cluster of several nodes: `make test-cluster`. `make test` leaves them out."""

from __future__ import annotations

import shutil
from itertools import count

import pytest

from tests import runs
from tests.on_cluster.net_cluster import NetCluster

_IDS = count(1)


def pytest_report_header():
    """Say how the nodes are kept apart here."""
    made = NetCluster()
    made.stop()
    return f"cluster: {made.network.note}"


@pytest.fixture(scope="session")
def shared_cluster():
    """One head without CPU slots, its worker nodes as `cluster` wants them."""
    made = NetCluster()
    try:
        made.start_head(num_cpus=0)
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(shared_cluster):
    """The head with two worker nodes of two CPU slots each; a test may kill nodes and start others.

    Whatever a test leaves, when it fails too, is ended before the next one.
    """
    shared_cluster.complete(workers=2, num_cpus=2)
    yield shared_cluster
    shared_cluster.quiet()


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of what a job carries, as a clean clone has it: no environment, models or runs."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("corp_ray", "jobs", "conf", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
        shutil.copytree(runs.ROOT / name, folder / name, ignore=ignored)
    with (folder / "corp_ray/__init__.py").open("a") as package:
        package.write('MARK = "carried by the job"\n')
    return folder


@pytest.fixture
def submission():
    """An id for a job that no other test has."""
    return lambda: f"job-{next(_IDS)}"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Configuration and committed files of a run that nothing happened to, on a Ray of its own."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = runs.workspace(folder)
    code, _, err = runs.run(config)
    assert code == 0, err
    files = runs.commit_files(folder / "runs/run")
    assert "1/model.safetensors" in files
    return config, files
