"""A job that prints where each node of the cluster, and the driver, imports corp_ray from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import corp_ray
from corp_ray import cluster


@ray.remote(num_cpus=0)
class Importer:
    def found(self) -> dict[str, Any]:
        import jobs.posttrain
        from tests import fake_engine

        return {
            "corp_ray": corp_ray.__file__,
            "jobs": jobs.posttrain.__file__,
            "engine": fake_engine.__file__,
            "mark": getattr(corp_ray, "MARK", None),
            "cwd": str(Path.cwd()),
        }


def main() -> None:
    cluster.connect()
    found = {"driver": {"corp_ray": corp_ray.__file__, "mark": getattr(corp_ray, "MARK", None)}}
    for node in ray.nodes():
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            actor = Importer.options(scheduling_strategy=here).remote()
            found[node["Labels"]["corp-node"]] = ray.get(actor.found.remote())
    sys.stdout.write(f"FOUND {json.dumps(found)}\n")
    cluster.disconnect()


if __name__ == "__main__":
    main()
