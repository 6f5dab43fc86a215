"""Which values of a configuration can run: each problem with its field, value and what is right."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator
from typing import Any

from corp_ray.settings import FAMILIES, METHODS, Config, TaskConfig

Problem = tuple[str, Any, str]  # field, value, what would be right

_CHOICES = {
    "model.dtype": ("bfloat16", "float16", "float32"),
    "model.chat_template": ("auto", "always", "never"),
    "task.kind": ("auto", "reasoning_gym", "rows", *FAMILIES),
    "task.answer": ("text", "last_number"),
    "task.sandbox": ("auto", "strict"),
    "engine.device": ("auto", "cpu", "cuda"),
    "engine.pristine": ("auto", "device", "host", "disk"),
    "tracking.wandb_mode": ("", "online", "offline", "disabled"),
}
_LEAST = {
    "task.size": 1,
    "task.grading_processes": 0,
    "splits.support": 1,
    "splits.validation": 1,
    "splits.gate": 2,
    "splits.test": 2,
    "decoding.max_new_tokens": 1,
    "decoding.batch_size": 1,
    "population.size": 1,
    "consolidation.rank": 1,
    "recentering.rounds": 0,
    "recentering.population": 1,
    "recentering.max_commits": 1,
    "recentering.patience": 1,
    "engine.threads": 1,
    "engine.tensor_parallel": 1,
    "ray.engines": 0,
    "ray.in_flight": 1,
    "ray.attempts": 1,
    "compare.population": 0,
    "compare.votes": 1,
    "score.shard": 0,
    "score.shards": 1,
}
Range = tuple[float, float, bool, bool, str]  # least, most, each allowed itself, in words

_RANGES: dict[str, Range] = {
    "gate.alpha": (0.0, 1.0, False, False, "a number above 0 and below 1"),
    "gate.min_gain": (0.0, 1.0, True, False, "a number from 0 and below 1"),
    "consolidation.compatibility": (0.0, math.inf, True, False, "a number from 0 up"),
    "recentering.regression_weight": (0.0, math.inf, True, False, "a number from 0 up"),
    "task.max_error_share": (0.0, 1.0, True, True, "a number in [0, 1]"),
    "task.grading_limit_s": (0.0, math.inf, False, False, "seconds above 0"),
    "doctor.tokens_per_s": (0.0, math.inf, False, False, "a number above 0"),
    "ray.max_set_aside": (0.0, 1.0, True, False, "a number from 0 and below 1"),
    "ray.straggler": (1.0, math.inf, True, True, "a number from 1 up"),
    "ray.hang": (1.0, math.inf, True, True, "a number from 1 up"),
    "ray.hang_floor_s": (0.0, math.inf, False, True, "seconds above 0"),
    "ray.first_call_s": (0.0, math.inf, False, True, "seconds above 0"),
    "ray.wait_s": (0.0, math.inf, True, False, "seconds from 0 up"),
    "ray.drain_s": (0.0, math.inf, True, False, "seconds from 0 up"),
}
_GRIDS: dict[str, Range] = {
    "population.sigmas": (0.0, 1e30, False, True, "numbers above 0 (and at most 1e30)"),
    "consolidation.quantiles": (0.0, 1.0, True, True, "numbers in [0, 1]"),
    "consolidation.inverse_temperatures": (0.0, math.inf, True, False, "numbers from 0 up"),
    "consolidation.steps": (0.0, 1e6, False, True, "numbers above 0 (and at most 1e6)"),
}
_PACKAGES = {"tracking.tensorboard": "tensorboard", "tracking.wandb_project": "wandb"}
_PATTERNS = ("perturb.include", "perturb.exclude", "task.answer_pattern")


def task_kind(task: TaskConfig) -> str:
    """The kind of task that a configuration means: one of `tasks.kinds()`."""
    if task.path.endswith(".py"):
        return "python_file"
    if task.kind != "auto":
        return task.kind
    return "rows" if task.path else "reasoning_gym"


def _value(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def _inside(value: float, bounds: Range) -> bool:
    low, high, low_in, high_in, _ = bounds
    return (low < value or (low_in and value == low)) and (
        value < high or (high_in and value == high)
    )


def problems(config: Config) -> Iterator[Problem]:
    """Every value that cannot run, by itself or beside another."""
    yield from _texts(config)
    for name, choices in _CHOICES.items():
        if _value(config, name) not in choices:
            yield name, _value(config, name), f"one of {', '.join(c or repr(c) for c in choices)}"
    for name, least in _LEAST.items():
        if _value(config, name) < least:
            yield name, _value(config, name), f"at least {least}"
    for name, bounds in _RANGES.items():
        if not _inside(_value(config, name), bounds):
            yield name, _value(config, name), bounds[-1]
    for name, bounds in _GRIDS.items():
        grid, words = _value(config, name), bounds[-1]
        if not grid:
            yield name, grid, f"a list of {words}"
        if len(set(grid)) != len(grid):
            yield name, grid, "each value once"
        yield from ((name, x, words) for x in grid if not _inside(x, bounds))
    if config.score.shard >= config.score.shards:
        yield "score.shard", config.score.shard, f"less than score.shards ({config.score.shards})"
    gpus = config.ray.gpus_per_engine
    if gpus != -1 and not 0 <= gpus < math.inf:
        yield "ray.gpus_per_engine", gpus, "a number from 0 up, or -1"
    if 0 < gpus < config.engine.tensor_parallel and config.engine.kind == "vllm":
        yield "ray.gpus_per_engine", gpus, "a whole GPU for each of engine.tensor_parallel, or 0"
    for name, package in _PACKAGES.items():
        if _value(config, name) and not _installed(package):
            right = f"the package {package} to be installed: pip install 'corp-ray[tracking]'"
            yield name, _value(config, name), right


def _installed(package: str) -> bool:
    """Whether a package can be imported; a mere folder of its name, as wandb leaves one, cannot."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def comparison_problems(config: Config) -> Iterator[Problem]:
    """What jobs.compare cannot run with, and other jobs do not look at."""
    size, more, votes = config.population.size, config.compare.population, config.compare.votes
    unknown = [name for name in config.compare.methods if name not in METHODS]
    if unknown:
        yield "compare.methods", config.compare.methods, f"some of {', '.join(METHODS)}"
    elif 0 < more < size:
        yield "compare.population", more, f"at least population.size ({size}), or 0 for that many"
    elif votes > max(more, size) and "majority_vote" in (config.compare.methods or METHODS):
        yield (
            "compare.votes",
            votes,
            f"at most the {max(more, size)} candidates there are to vote (compare.population adds some)",
        )


def _texts(config: Config) -> Iterator[Problem]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.id):
        yield "run.id", config.run.id, "letters, digits, '.', '_' and '-'"
    if not 0 <= config.run.seed < 1 << 63:
        yield "run.seed", config.run.seed, "an integer from 0 to 2^63 - 1"
    if not config.model.path:
        yield "model.path", config.model.path, "a Hugging Face folder or id"
    yield from _task(config.task)
    for name in ("engine.kind", "engine.judge"):
        kind = _value(config, name)
        if (
            kind not in ("transformers", "vllm")
            and ":" not in kind
            and (kind or name != "engine.judge")
        ):
            yield name, kind, "transformers, vllm or module:Class"
    if config.engine.tensor_parallel > 1 and config.engine.kind == "transformers":
        yield "engine.tensor_parallel", config.engine.tensor_parallel, "1, or engine.kind=vllm"
    for name in _PATTERNS:
        given = _value(config, name)
        for pattern in given if isinstance(given, list) else [given]:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                yield name, pattern, f"a regular expression ({error})"
                continue
            if name == "task.answer_pattern" and pattern and groups != 1:
                yield name, pattern, "a regular expression with one group"


def _task(task: TaskConfig) -> Iterator[Problem]:
    kind = task_kind(task)
    required = {"reasoning_gym": "dataset", "rows": "path"}.get(kind)
    if required and not getattr(task, required):
        instead = ", or a task.path" if task.kind == "auto" else ""
        yield f"task.{required}", "", f"a value, which task.kind={kind} needs{instead}"
    if task.kind == "auto" and kind == "rows" and task.dataset:
        yield "task.kind", task.kind, "a kind, where both task.path and task.dataset are set"
