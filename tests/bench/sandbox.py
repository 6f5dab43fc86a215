"""MBPP programs a second: two sandboxes, against a fresh Python for each program."""

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from corp_ray.tasks import make_task
from corp_ray.tasks.program_text import find_program
from tests import runs

DATA = runs.ROOT.parent / "shared/data/mbpp.jsonl"
WORKERS = 2
TURNS = 8
THINNED = 4  # the other runs every fourth program


def sandbox_programs():
    """Rewards of all reference programs; the other runs a sample as a script with its tests.

    The script has no walls: no limits but a timeout, and its exit code is its word. None without
    the data.
    """
    if not DATA.is_file():
        return None
    tasks = [make_task("mbpp", path=str(DATA)) for _ in range(WORKERS)]
    examples = tasks[0].examples()
    dealt = [examples[i::WORKERS] for i in range(WORKERS)]

    def ours(task, own):
        return [task.reward(example, example.answer).reward for example in own]

    def other(own):
        for example in own:
            tests, _ = example.data
            source = find_program(example.answer, tests.names).source
            script = "\n".join([source, tests.setup, *tests.statements])
            subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    def seconds(call, *shares):
        start = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(call, *shares)), time.perf_counter() - start

    for task, own in zip(tasks, dealt, strict=True):
        ours(task, own[:1])  # starts its server
    passed, mine, theirs = 0.0, [], []
    for turn in range(TURNS):
        rewards, took = seconds(ours, tasks, [own[turn::TURNS] for own in dealt])
        passed += sum(map(sum, rewards))
        mine.append(sum(map(len, rewards)) / took)
        sample = [own[turn :: TURNS * THINNED] for own in dealt]
        _, took = seconds(other, sample)
        theirs.append(sum(map(len, sample)) / took)
    for task in tasks:
        task.close()
    mine, theirs = statistics.median(mine), statistics.median(theirs)
    return (
        {
            "name": "sandbox_programs",
            "ours": mine,
            "other": theirs,
            "ratio": mine / theirs,
            "unit": "programs/s",
        },
        f"{passed:.0f} of {len(examples)} MBPP programs pass, {WORKERS} workers, vs a fresh python each",
    )
