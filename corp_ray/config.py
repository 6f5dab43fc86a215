"""The configuration: a structured schema, loading with command-line overrides, validation.

One YAML file is one runnable experiment. Nothing here imports torch or starts an engine; every
mistake is one `ConfigError` line that names the field, its value and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corp_ray.errors import ConfigError


@dataclass
class RunConfig:
    id: str = ""  # name of the run directory; default: the configuration file's name
    directory: str = "runs"
    seed: int = 0


@dataclass
class ModelConfig:
    path: str = ""  # a Hugging Face folder or hub id
    dtype: str = "bfloat16"  # bfloat16, float16 or float32: what is perturbed and committed
    chat_template: str = "auto"  # auto: used when the tokenizer has one; always; never


@dataclass
class TaskConfig:
    kind: str = "reasoning_gym"  # reasoning_gym or rows
    dataset: str = ""  # reasoning_gym: name of the dataset
    arguments: dict[str, Any] = field(default_factory=dict)  # reasoning_gym: its own arguments
    size: int = 4000  # reasoning_gym: items drawn before duplicates are dropped
    seed: int = 0  # reasoning_gym: seed of the items
    answer: str = "text"  # reasoning_gym: what of a text is graded, text or last_number
    partial_credit: bool = True  # reasoning_gym: false counts only a full score
    path: str = ""  # rows: a .jsonl or .parquet file
    question_field: str = "question"
    answer_field: str = "answer"
    answer_pattern: str = ""  # rows: regular expression whose group 1 is the answer
    grader: str = "exact"  # rows: exact, numeric or module:function
    system_prompt: str = ""
    max_error_share: float = 0.1  # a run stops when more of a candidate's gradings fail than this


@dataclass
class SplitsConfig:
    seed: int = 0
    support: int = 500  # scores the population
    validation: int = 100  # chooses quantile, inverse temperature, step
    gate: int = 256  # only the gate sees it
    test: int = 256  # read once, after the run is decided


@dataclass
class DecodingConfig:
    max_new_tokens: int = 64
    batch_size: int = 64


@dataclass
class PerturbConfig:
    include: list[str] = field(default_factory=lambda: [".*"])  # regular expressions on names
    exclude: list[str] = field(default_factory=list)


@dataclass
class PopulationConfig:
    size: int = 500
    sigmas: list[float] = field(default_factory=lambda: [5e-4, 1e-3, 2e-3])


@dataclass
class ConsolidationConfig:
    quantiles: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.9])
    inverse_temperatures: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    )
    steps: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    rank: int = 8
    compatibility: float = 1.0  # 1 is the paper, 0 leaves the second pass out


@dataclass
class GateConfig:
    alpha: float = 0.05  # error budget of the whole run, all its looks together
    min_gain: float = 0.0


@dataclass
class RecenteringConfig:
    rounds: int = 3  # rounds after round 0; 0 consolidates once
    population: int = 100
    max_commits: int = 3  # the first update plus 2
    patience: int = 2  # rejected rounds in a row that end the run
    regression_weight: float = 2.0  # lambda of the constructive score


@dataclass
class EngineConfig:
    kind: str = "transformers"  # transformers, or module:Class with the Engine protocol
    device: str = "auto"  # auto, cpu or cuda
    threads: int = 1  # CPU threads of one engine
    options: dict[str, Any] = field(default_factory=dict)  # passed to the engine as they are


@dataclass
class RayConfig:
    engines: int = 0  # 0: as many as the cluster's CPUs or GPUs hold
    gpus_per_engine: float = -1.0  # -1: one where the engine runs on a GPU, else none
    in_flight: int = 2  # calls queued at one engine
    attempts: int = 3  # times a piece of work is tried before the run stops


@dataclass
class EvaluateConfig:
    model: str = ""  # jobs/evaluate: a model folder or a recipe.json


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    consolidation: ConsolidationConfig = field(default_factory=ConsolidationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    recentering: RecenteringConfig = field(default_factory=RecenteringConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def _nearest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


def _check_keys(given: Any, schema: Any, prefix: str = "") -> None:
    """ConfigError for a key that the schema does not have, with the nearest one that it has."""
    if not isinstance(given, dict):
        raise ConfigError(f"{prefix[:-1] or 'configuration'}={given!r}: expected a mapping")
    fields = {f.name: getattr(schema, f.name) for f in dataclasses.fields(schema)}
    for key, value in given.items():
        if key not in fields:
            raise ConfigError(f"unknown key {prefix}{key}={value!r}: {_nearest(str(key), list(fields))}")
        if dataclasses.is_dataclass(fields[key]):
            _check_keys({} if value is None else value, fields[key], f"{prefix}{key}.")


def _merge(schema: DictConfig, given: DictConfig) -> DictConfig:
    try:
        merged = OmegaConf.merge(schema, given)
        assert isinstance(merged, DictConfig)
        return merged
    except OmegaConfBaseException as error:
        key = error.full_key or "?"
        wanted = OmegaConf.select(schema, key, throw_on_missing=False)
        first = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {first} (expected something like {wanted!r})") from error


def load(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with `key=value` overrides, validated.

    Errors: ConfigError for a missing or unreadable file, an unknown key, a wrong type or a value
    that cannot run.
    """
    layers = []
    if path is not None:
        if not Path(path).is_file():
            raise ConfigError(f"--config {path}: no such file")
        try:
            loaded = OmegaConf.load(path)
        except Exception as error:  # the YAML parser has many; each is the same mistake
            raise ConfigError(f"--config {path}: {' '.join(str(error).split())}") from error
        layers.append(loaded)
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"argument {override!r}: expected key=value")
    try:
        layers.append(OmegaConf.from_dotlist(list(overrides)))
    except Exception as error:
        raise ConfigError(f"arguments {list(overrides)}: {' '.join(str(error).split())}") from error
    schema = OmegaConf.structured(Config)
    for layer in layers:
        _check_keys(OmegaConf.to_container(layer), Config())
        schema = _merge(schema, layer)
    config = OmegaConf.to_object(schema)
    assert isinstance(config, Config)
    if not config.run.id and path is not None:
        config.run.id = Path(path).stem
    validate(config)
    return config


def _problems(config: Config) -> Iterator[tuple[str, Any, str]]:
    """(field, value, what would be right) for every value that cannot run."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.id):
        yield "run.id", config.run.id, "letters, digits, '.', '_' and '-'"
    if not 0 <= config.run.seed < 1 << 63:
        yield "run.seed", config.run.seed, "an integer from 0 to 2^63 - 1"
    if not config.model.path:
        yield "model.path", config.model.path, "a Hugging Face folder or id"
    for name, value, choices in (
        ("model.dtype", config.model.dtype, ("bfloat16", "float16", "float32")),
        ("model.chat_template", config.model.chat_template, ("auto", "always", "never")),
        ("task.kind", config.task.kind, ("reasoning_gym", "rows")),
        ("task.answer", config.task.answer, ("text", "last_number")),
        ("engine.device", config.engine.device, ("auto", "cpu", "cuda")),
    ):
        if value not in choices:
            yield name, value, f"one of {', '.join(choices)}"
    required = {"reasoning_gym": "dataset", "rows": "path"}.get(config.task.kind)
    if required and not getattr(config.task, required):
        yield f"task.{required}", "", f"needed by task.kind={config.task.kind}"
    if config.engine.kind != "transformers" and ":" not in config.engine.kind:
        yield "engine.kind", config.engine.kind, "transformers or module:Class"
    for name, value, least in (
        ("task.size", config.task.size, 1),
        ("splits.support", config.splits.support, 1),
        ("splits.validation", config.splits.validation, 1),
        ("splits.gate", config.splits.gate, 2),
        ("splits.test", config.splits.test, 2),
        ("decoding.max_new_tokens", config.decoding.max_new_tokens, 1),
        ("decoding.batch_size", config.decoding.batch_size, 1),
        ("population.size", config.population.size, 1),
        ("consolidation.rank", config.consolidation.rank, 1),
        ("recentering.rounds", config.recentering.rounds, 0),
        ("recentering.population", config.recentering.population, 1),
        ("recentering.max_commits", config.recentering.max_commits, 1),
        ("recentering.patience", config.recentering.patience, 1),
        ("engine.threads", config.engine.threads, 1),
        ("ray.engines", config.ray.engines, 0),
        ("ray.in_flight", config.ray.in_flight, 1),
        ("ray.attempts", config.ray.attempts, 1),
    ):
        if value < least:
            yield name, value, f"at least {least}"
    grids: tuple[tuple[str, list[float], float, float, str], ...] = (
        ("population.sigmas", config.population.sigmas, 0.0, math.inf, "numbers above 0"),
        ("consolidation.quantiles", config.consolidation.quantiles, -1.0, 1.0, "numbers in [0, 1]"),
        (
            "consolidation.inverse_temperatures",
            config.consolidation.inverse_temperatures,
            -1.0,
            1e6,
            "numbers from 0 up",
        ),
        ("consolidation.steps", config.consolidation.steps, 0.0, math.inf, "numbers above 0"),
    )
    for name, grid, above, most, right in grids:
        if not grid:
            yield name, grid, f"a list of {right}"
        floor = 0.0 if above < 0 else math.nextafter(0.0, 1.0)
        for entry in grid:
            if not (math.isfinite(entry) and floor <= entry <= most):
                yield name, entry, right
        if len(set(grid)) != len(grid):
            yield name, grid, "each value once"
    shares = (
        ("gate.alpha", config.gate.alpha, 0.0 < config.gate.alpha < 1.0, "a number in (0, 1)"),
        ("gate.min_gain", config.gate.min_gain, 0 <= config.gate.min_gain < 1, "a number in [0, 1)"),
        (
            "consolidation.compatibility",
            config.consolidation.compatibility,
            0 <= config.consolidation.compatibility < math.inf,
            "a number from 0 up",
        ),
        (
            "recentering.regression_weight",
            config.recentering.regression_weight,
            0 <= config.recentering.regression_weight < math.inf,
            "a number from 0 up",
        ),
        (
            "task.max_error_share",
            config.task.max_error_share,
            0 <= config.task.max_error_share <= 1,
            "a number in [0, 1]",
        ),
        (
            "ray.gpus_per_engine",
            config.ray.gpus_per_engine,
            config.ray.gpus_per_engine == -1 or 0 <= config.ray.gpus_per_engine < math.inf,
            "a number from 0 up, or -1",
        ),
    )
    for name, number, good, right in shares:
        if not good:
            yield name, number, right
    for name, patterns in (
        ("perturb.include", config.perturb.include),
        ("perturb.exclude", config.perturb.exclude),
        ("task.answer_pattern", [config.task.answer_pattern]),
    ):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield name, pattern, f"a regular expression ({error})"
    if config.task.answer_pattern and "(" not in config.task.answer_pattern:
        yield "task.answer_pattern", config.task.answer_pattern, "an expression with one group"


def validate(config: Config) -> None:
    """ConfigError for the first value that cannot run."""
    for name, value, right in _problems(config):
        raise ConfigError(f"{name}={value!r}: expected {right}")


def to_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def task_settings(task: TaskConfig) -> dict[str, Any]:
    """The arguments of `tasks.make_task` for this configuration."""
    if task.kind == "reasoning_gym":
        names = (
            "kind dataset arguments size seed answer partial_credit system_prompt"  # its own keys
        )
    else:
        names = "kind path question_field answer_field answer_pattern grader system_prompt"
    return {name: getattr(task, name) for name in names.split()}
