"""What a candidate costs the driver with 512 engines: real Ray calls, real rows on disk.

512 processes do not fit on a small machine: each engine is one of 64 threads of an actor, which
sleeps as a model would work and returns an evaluation of 500 rewards. `python -m tests.bench.dispatch`
prints JSON: CPU seconds of the driver's process (Ray's threads in it included) per candidate, and
the share of engine time that went by idle.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import ray

from corp_ray import cluster
from corp_ray.cluster import EnginePlan
from corp_ray.pool import Pool
from corp_ray.population import isotropic
from corp_ray.records import Candidate, Center, Evaluation, Failure, Ready, Work
from corp_ray.reward_table import Identity, RewardTable
from corp_ray.scheduler import SchedulePolicy
from corp_ray.stopping import StopRequest
from corp_ray.storage import Storage

ENGINES, THREADS, EXAMPLES = 512, 64, 500
ANSWER_S = 4.0
CENTER = Center("none", "0" * 64)


class Many:
    """An actor that stands for many engines."""

    def ready(self) -> Ready:
        return Ready(ray.get_runtime_context().get_node_id(), "bench")

    def score(self, work: Work) -> list[Evaluation]:
        time.sleep(ANSWER_S)
        (candidate,) = work.candidates
        rewards = tuple(float(len(candidate.id) * e % 3 == 0) for e in range(EXAMPLES))
        outcomes = ("graded",) * EXAMPLES
        return [Evaluation(candidate, CENTER.digest, "support", rewards, outcomes, 9, 1.0, "bench")]


def measured(candidates: list[Candidate], folder: Path) -> dict[str, float]:
    table = RewardTable(
        Storage.open(folder), Identity({"support": "s"}, "d", "t", "bench"), owner=True
    )
    threaded = ray.remote(Many).options(num_cpus=0, max_concurrency=THREADS)
    actors = [threaded.remote() for _ in range(ENGINES // THREADS)]
    made = iter(range(ENGINES))
    pool = Pool(
        lambda options: actors[next(made) % len(actors)],
        EnginePlan(ENGINES, 1, 0),
        warm=lambda actor: actor.ready.remote(),
        name="bench",
        policy=SchedulePolicy(),
        stop=StopRequest(1.0),
    )
    pool.open()
    while pool.ready < ENGINES:
        pool.wait()
    begin, cpu = time.monotonic(), time.process_time()
    for done in pool.map_unordered(
        lambda actor, index: actor.score.remote(Work(CENTER, "support", (candidates[index],))),
        [EXAMPLES] * len(candidates),
    ):
        if any(isinstance(d, Failure) for d in done):
            raise RuntimeError(str(done))
        table.append([evaluation for d in done for evaluation in d.result])
    spent, took = time.process_time() - cpu, time.monotonic() - begin
    pool.close()
    ideal = len(candidates) * ANSWER_S / ENGINES
    return {"driver_s": spent / len(candidates), "took_s": took, "ideal_s": ideal}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10 * ENGINES
    cluster.connect()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(isotropic(0, 0, count, (1e-3,)), Path(folder))
    cluster.disconnect()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
