"""A long run of the parts that live as long as a driver: do memory, files or Ray objects grow?

`python -m tests.soak [--runs 2000] [--minutes 28]`: one driver, one pool of scorer actors with the
fake engine, and for each run a reward table of its own with as many candidates as a small run has.
Every twentieth run kills an engine. Prints a line per tenth, and ends with 1 when the last quarter
uses more than the second one by more than the noise of counting.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil
import ray

from corp_ray import checkpoint, cluster
from corp_ray.actors import ScorerActor
from corp_ray.cluster import EnginePlan
from corp_ray.engines import EngineSettings
from corp_ray.pool import Done, Pool
from corp_ray.population import isotropic
from corp_ray.records import Center, Work
from corp_ray.reward_table import Identity, RewardTable
from corp_ray.scheduler import SchedulePolicy
from corp_ray.stopping import StopRequest
from corp_ray.storage import Storage
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import NAMES, make_splits
from tests import runs

CANDIDATES = 36
ALLOWED = {"driver_mb": 12, "engine_mb": 12, "objects": 8, "files": 4, "threads": 4, "processes": 2}


def prepared(folder):
    """A pool of two engines, and the center that they have loaded."""
    runs.workspace(folder)
    settings = {"kind": "rows", "path": str(folder / "task.jsonl"), "grader": "numeric"}
    task, sizes = make_task(**settings), dict.fromkeys(NAMES, 100)
    digests = {name: split.digest for name, split in make_splits(task, sizes, 0).items()}
    model = folder / "model"
    center = Center(str(model), checkpoint.folder_digest(model, "bfloat16"))
    engine = EngineSettings(
        "tests.fake_engine:FakeEngine", "bfloat16", "cpu", 1, "auto", 8, 8, (".*",), ()
    )
    task_settings = TaskSettings(settings, sizes, 0, task.version, digests)
    pool = Pool(
        lambda options: ScorerActor.options(**options).remote(engine, task_settings),
        EnginePlan(2, 1, 0),
        warm=lambda actor: actor.ready.remote(center),
        name="soak",
        policy=SchedulePolicy(attempts=100),
        stop=StopRequest(1.0),
    )
    pool.open()
    return pool, center, Identity(digests, "d", task.version, pool.description)


def one_run(number, folder, pool, center, identity):
    """Score a population into a table of its own."""
    table = RewardTable(Storage.open(folder / "rewards"), identity)
    candidates = isotropic(number, 0, CANDIDATES, (0.01, 0.02))
    works = [Work(center, "support", (candidate,)) for candidate in candidates]
    for finished in pool.map_unordered(
        lambda actor, index: actor.score.remote(works[index]), [100] * len(works)
    ):
        if not all(isinstance(done, Done) for done in finished):
            raise RuntimeError(str(finished))
        table.append([evaluation for done in finished for evaluation in done.result])
    if len(table) != CANDIDATES or table.missing(center.digest, "support", candidates):
        raise RuntimeError(f"run {number}: {len(table)} rows for {CANDIDATES} candidates")
    shutil.rmtree(folder / "rewards")


def scorers():
    """Processes of scorer actors below this driver's own Ray."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.name().startswith("ray::Scorer")]


def counted():
    driver = psutil.Process()
    core = ray._private.worker.global_worker.core_worker
    return {
        "driver_mb": driver.memory_info().rss / 1e6,
        "engine_mb": max((p.memory_info().rss / 1e6 for p in scorers()), default=0.0),
        "objects": len(core.get_all_reference_counts()),
        "files": driver.num_fds(),
        "threads": driver.num_threads(),
        "processes": len(driver.children(recursive=True)),
    }


def grown(samples):
    """What the last quarter of the samples has more of than the second one, beyond ALLOWED."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    found = {}
    for name, allowed in ALLOWED.items():
        more = max(s[name] for s in late) - max(s[name] for s in early)
        if more > allowed:
            found[name] = more
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=28.0)
    arguments = parser.parse_args()
    begin, samples, done = time.monotonic(), [], 0
    chance = random.Random(0)
    cluster.connect()
    with tempfile.TemporaryDirectory(prefix="corp-soak-") as place:
        pool, center, identity = prepared(Path(place) / "workspace")
        while done < arguments.runs and time.monotonic() - begin < 60 * arguments.minutes:
            if done % 20 == 19 and len(found := scorers()) > 1:
                os.kill(chance.choice(found).pid, signal.SIGKILL)
            one_run(done, Path(place), pool, center, identity)
            done += 1
            if done % max(arguments.runs // 100, 1) == 0:
                samples.append(counted())
            if done % max(arguments.runs // 10, 1) == 0:
                shown = ", ".join(f"{name} {value:.0f}" for name, value in samples[-1].items())
                sys.stdout.write(f"{done} runs, {time.monotonic() - begin:.0f} s: {shown}\n")
                sys.stdout.flush()
        restarts = pool.restarts
        pool.close()
    cluster.disconnect()
    found = grown(samples)
    sys.stdout.write(
        f"{done} runs of {CANDIDATES} candidates in {time.monotonic() - begin:.0f} s, {restarts} "
        f"engines killed and replaced: {f'grew: {found}' if found else 'nothing grew'}\n"
    )
    raise SystemExit(1 if found or done < arguments.runs else 0)


if __name__ == "__main__":
    main()
