"""A held-out split judged on engines that others wait for, too."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray

from corp_ray import checkpoint, config
from corp_ray.actors import ScorerActor
from corp_ray.actors.held_out import Gate
from corp_ray.preparation import prepare
from corp_ray.records import Candidate, Center
from tests import runs


def test_a_rows_seconds_are_its_engines_and_not_those_of_the_line_before_it(tmp_path, ray_address):
    """Two models on one engine: together they cannot take it longer than both took to come."""
    options = ["splits.test=4", "engine.options.delay_s=0.5"]
    prepared = prepare(config.load(str(runs.workspace(tmp_path)), options))
    center = Center(
        str(prepared.folder), checkpoint.folder_digest(Path(prepared.folder), "bfloat16")
    )
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        scorer = ScorerActor.remote(prepared.engine, prepared.task)
        assert ray.get(scorer.ready.remote(center)).error is None
        gate = Gate("test", prepared.task)
        works = [Candidate(f"r0c{k}", "candidate", 0, ((k, 0.01),)) for k in range(2)]
        gate.answers(["1"] * 4)
        begin = time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            rows = list(threads.map(lambda one: gate.evaluate(scorer, center, one), works))
        elapsed_s = time.perf_counter() - begin
        ray.kill(scorer)
    finally:
        ray.shutdown()
    assert [len(row.rewards) for row in rows] == [4, 4]
    assert 2 * 0.5 <= sum(row.seconds for row in rows) <= elapsed_s
