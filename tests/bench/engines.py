"""The vLLM engine against the transformers engine on the demo's work: `python -m tests.bench.engines`.

`--model FOLDER [--threads 1] [--candidates 6] [--out build/bench.json]`; needs vLLM. Each engine
lives in a process of its own, and both score the same candidates of conf/demo.yaml on its support
split in turns, so that a busy machine slows both. Rows of an existing file are kept.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import time
from pathlib import Path

from tests import runs

PARTS = ("apply", "generate", "reward")


def work(kind, model, threads, pipe):
    """In the engine's process: for each direction received, send seconds per part and answers."""
    from corp_ray import checkpoint, config
    from corp_ray.direction import Direction
    from corp_ray.engines import make_engine
    from corp_ray.preparation import prepare, with_prompt_tokens
    from corp_ray.records import Center
    from corp_ray.tasks import make_task

    demo = config.load(
        str(runs.ROOT / "conf/demo.yaml"),
        [f"model.path={model}", f"engine.threads={threads}", f"engine.kind={kind}"],
    )
    prepared = with_prompt_tokens(prepare(demo), 64)
    task = make_task(**prepared.task.task)
    examples = prepared.task.examples(task, ("support",))["support"]
    prompts = [task.prompt(example) for example in examples]
    engine = make_engine(prepared.engine)
    dtype = prepared.engine.dtype
    engine.load(Center(str(model), checkpoint.folder_digest(Path(model), dtype, threads=2)))
    engine.generate(prompts)
    pipe.send(engine.describe())
    while (terms := pipe.recv()) is not None:
        times = [time.perf_counter()]
        engine.apply(Direction(terms))
        times.append(time.perf_counter())
        answers = engine.generate(prompts)
        times.append(time.perf_counter())
        rewards = [task.reward(e, a.text).reward for e, a in zip(examples, answers, strict=True)]
        times.append(time.perf_counter())
        seconds = [after - before for before, after in itertools.pairwise(times)]
        pipe.send((seconds, answers, rewards))


def start(kind, model, threads):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(kind, model, threads, theirs), daemon=True)
    process.start()
    return ours


def measured(model, threads, candidates):
    """The row, and lines about it."""
    from corp_ray.population import isotropic

    kinds = ("vllm", "transformers")
    pipes = {kind: start(kind, model, threads) for kind in kinds}
    described = {kind: pipe.recv() for kind, pipe in pipes.items()}
    found = {kind: [] for kind in kinds}
    for candidate in isotropic(0, 0, candidates, (0.002, 0.004, 0.006)):
        for kind in kinds:
            pipes[kind].send(candidate.terms)
            found[kind].append(pipes[kind].recv())
    for pipe in pipes.values():
        pipe.send(None)
    parts = {
        kind: [statistics.median(column) for column in zip(*(s for s, _, _ in rows), strict=True)]
        for kind, rows in found.items()
    }
    per_hour = {kind: 3600 / sum(seconds) for kind, seconds in parts.items()}
    shares = {
        kind: dict(zip(PARTS, (s / sum(seconds) for s in seconds), strict=True))
        for kind, seconds in parts.items()
    }
    pairs = [
        (a == b, x - y)
        for (_, ours, mine), (_, others, theirs) in zip(*found.values(), strict=True)
        for a, b, x, y in zip(ours, others, mine, theirs, strict=True)
    ]
    row = {
        "name": "vllm_candidates_per_hour",
        "ours": per_hour["vllm"],
        "other": per_hour["transformers"],
        "ratio": per_hour["vllm"] / per_hour["transformers"],
        "unit": "candidates/h",
        "shares": shares,
        "equal_answers": sum(same for same, _ in pairs) / len(pairs),
        "reward_difference": sum(difference for _, difference in pairs) / len(pairs),
    }
    lines = [
        f"{described[k]}: " + ", ".join(f"{p} {s:.1%}" for p, s in shares[k].items()) for k in kinds
    ]
    lines.append(
        f"{row['equal_answers']:.1%} of {len(pairs)} answers equal, "
        f"mean reward differs by {row['reward_difference']:+.4f}"
    )
    return row, lines


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engines", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    row, lines = measured(arguments.model, arguments.threads, arguments.candidates)
    print(
        f"{row['name']:<24} {row['ours']:>9,.0f}/h {row['other']:>9,.0f}/h {row['ratio']:>6.2f}x  "
        f"demo's support split, {arguments.threads} thread(s), vs the transformers engine"
    )
    print("\n".join(f"  {line}" for line in lines))
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    kept = [other for other in kept if other["name"] != row["name"]]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    beside = arguments.out.with_suffix(".tmp")
    beside.write_text(json.dumps([*kept, row], indent=1) + "\n")
    beside.replace(arguments.out)


if __name__ == "__main__":
    main()
