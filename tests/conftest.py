"""A real Ray cluster that tests share: its own head node, joined by jobs through RAY_ADDRESS."""

from __future__ import annotations

import os

import pytest

# Before numpy is imported: on a busy machine threads of BLAS slow small matrices down 25 times.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ray_address():
    """Address of a Ray head with 4 CPU slots, separate processes; only this one is stopped."""
    from tests.runs import ray_head

    cluster = ray_head()
    yield cluster.address
    cluster.shutdown()
