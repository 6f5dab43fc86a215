"""MBPP programs a second: two sandboxes, against a fresh Python for each program."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from corp_ray.tasks import make_task
from corp_ray.tasks.program_text import find_program
from tests import runs

DATA = runs.ROOT.parent / "shared/data/mbpp.jsonl"
WORKERS = 2


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

    def per_second(call, *shares):
        start = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            done = list(pool.map(call, *shares))
        return sum(map(len, shares[-1])) / (time.perf_counter() - start), done

    for task, own in zip(tasks, dealt, strict=True):
        ours(task, own[:1])  # starts its server
    mine, rewards = per_second(ours, tasks, dealt)
    theirs, _ = per_second(other, [own[::8] for own in dealt])
    for task in tasks:
        task.close()
    passed = sum(map(sum, rewards))
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
