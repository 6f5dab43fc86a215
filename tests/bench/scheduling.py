"""The scheduler on simulated engines, against batches of one candidate per engine with a barrier.

A candidate's time is what it has to write (log-normal, the same wherever it runs) times what its
machine does meanwhile (Pareto with exponent 2.5, whose variance is mostly in its tail; drawn anew
for a second copy), and one engine in sixteen is three times slower than the rest. Both ways get the
same times. Simulated seconds pass at once; the scheduling is the real one. Time spent on a copy
that came second counts as idle.
"""

import heapq
import json
import subprocess
import sys
import time

import numpy as np

from corp_ray.scheduler import COPIES, SchedulePolicy, Scheduler

ENGINES = (8, 32, 128, 512)
DRIVER_MS = 5.0  # what a candidate may cost the driver at 512 engines
PER_ENGINE = 200  # candidates: 100,000 on 512 engines
MEDIAN_S, SPREAD, TAIL = 3.0, 0.4, 2.5
SLOW_EVERY, SLOW_BY = 16, 3.0


def drawn(engines, seed=0):
    """Durations (N, COPIES) of candidates in seconds, and factors (E,) of engines."""
    random = np.random.default_rng(seed)
    candidates = engines * PER_ENGINE
    work_N = MEDIAN_S * random.lognormal(0.0, SPREAD, candidates)
    luck_NC = 1 + random.pareto(TAIL, (candidates, COPIES))
    factors_E = np.where(np.arange(engines) % SLOW_EVERY == SLOW_EVERY - 1, SLOW_BY, 1.0)
    return work_N[:, None] * luck_NC, factors_E


def scheduled(durations_NC, factors_E):
    """Idle share, and real seconds of scheduling per candidate."""
    scheduler = Scheduler(SchedulePolicy())
    for engine in range(len(factors_E)):
        scheduler.join(engine, 0.0)
    scheduler.begin(np.ones(len(durations_NC)))
    lines = [[] for _ in factors_E]
    calls, lasts, tried = {}, {}, np.zeros(len(durations_NC), int)
    ends: list[tuple[float, int]] = []
    useful = now = 0.0
    begin = time.perf_counter()

    def start(call):
        lasts[call.number] = (
            durations_NC[call.task, tried[call.task] % COPIES] * factors_E[call.engine]
        )
        tried[call.task] += 1
        heapq.heappush(ends, (now + lasts[call.number], call.number))

    while scheduler.unfinished:
        for call in scheduler.assign(now):
            calls[call.number] = call
            lines[call.engine].append(call)
            if len(lines[call.engine]) == 1:
                start(call)
        now, number = heapq.heappop(ends)
        line = lines[calls.pop(number).engine]
        line.pop(0)
        if scheduler.finish(number, now) is not None:
            useful += lasts[number]
        for late in scheduler.waiting(wanted=False):
            lines[calls[late].engine].remove(calls.pop(late))
            scheduler.fail(late, now, blame=False)
        if line:
            start(line[0])
    spent_s = time.perf_counter() - begin
    return 1 - useful / (now * len(factors_E)), spent_s / len(durations_NC)


def with_barrier(durations_NC, factors_E):
    """Idle share when a batch of one candidate per engine begins as the one before is all done."""
    useful = whole = 0.0
    engines = len(factors_E)
    for low in range(0, len(durations_NC), engines):
        taken = durations_NC[low : low + engines, 0] * factors_E
        useful += taken.sum()
        whole += taken.max()
    return 1 - useful / (whole * engines)


def bench_rows():
    """(row, what was compared): idle shares at the most engines, the driver's cost per candidate."""
    found = {}
    for engines in ENGINES:
        durations, factors = drawn(engines)
        found[engines] = scheduled(durations, factors)[0], with_barrier(durations, factors)
    ours, other = found[max(ENGINES)]
    row = {"name": "scheduler_idle_share", "ours": ours, "other": other, "unit": "share"}
    each = ", ".join(f"{n}: {a:.1%} / {b:.0%}" for n, (a, b) in found.items())
    yield (
        row | {"ratio": other / ours},
        f"{max(ENGINES)} simulated engines vs batches of one each ({each})",
    )
    printed = subprocess.run(
        [sys.executable, "-m", "tests.bench.dispatch"], check=True, capture_output=True, text=True
    ).stdout
    spent_ms = 1000 * json.loads(printed)["driver_s"]
    row = {"name": "driver_time", "ours": spent_ms, "other": DRIVER_MS, "unit": "ms"}
    yield (
        row | {"ratio": DRIVER_MS / spent_ms},
        "CPU of the driver per candidate, 512 engines as threads of 8 actors, vs 5 ms",
    )
