"""Everything that a run checks and fixes before Ray or an engine starts.

From a configuration: the task and its splits' digests, the model folder and what of it is
perturbed, and the identity that rows of this run carry.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corp_ray import config as configuration
from corp_ray import parameters
from corp_ray.cloud import DENSE_COORDINATES
from corp_ray.engines import VLLM_INSTALL, EngineSettings
from corp_ray.errors import ConfigError
from corp_ray.noise import NOISE_VERSION
from corp_ray.reward_rows import Identity
from corp_ray.settings import Config
from corp_ray.tasks import Task, in_place, make_task
from corp_ray.tasks.settings import TaskSettings, portable
from corp_ray.tasks.splits import NAMES, Split, make_splits

# Names under which a config.json gives the number of positions that a model knows.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class Prepared:
    """A checked configuration with what was read for it; plain data."""

    config: Config
    folder: Path
    perturbed: tuple[str, ...]
    parameters: int
    task: TaskSettings
    model_digest: str
    in_place: bool  # answers are graded beside the engine's own work, not by child processes
    prompt_tokens: int = 0  # of the longest prompt; 0 when nobody has counted

    @property
    def decoding_digest(self) -> str:
        """Digest of how prompts become token ids and answers."""
        decoding = self.config.decoding
        content = {
            "max_new_tokens": decoding.max_new_tokens,
            "batch_size": decoding.batch_size,
            "chat_template": self.config.model.chat_template,
            "sampling": "greedy",
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's rows rest on, by the name an error message would use."""
        return {
            "model": self.model_digest,
            "task_version": self.task.version,
            "decoding": self.decoding_digest,
            "noise_version": NOISE_VERSION,
            "split": self.task.digests,
        }

    def table_identity(self, engine: str, judge: str = "") -> Identity:
        return Identity(
            self.task.digests, self.decoding_digest, self.task.version, engine, judge=judge
        )

    @property
    def engine(self) -> EngineSettings:
        config = self.config
        return EngineSettings(
            kind=config.engine.kind,
            dtype=config.model.dtype,
            device=config.engine.device,
            threads=config.engine.threads,
            chat_template=config.model.chat_template,
            max_new_tokens=config.decoding.max_new_tokens,
            batch_size=config.decoding.batch_size,
            include=tuple(config.perturb.include),
            exclude=tuple(config.perturb.exclude),
            options=dict(config.engine.options),
            tensor_parallel=config.engine.tensor_parallel,
            pristine=config.engine.pristine,
            prompt_tokens=self.prompt_tokens,
        )

    @property
    def judge(self) -> EngineSettings | None:
        """The engine that answers gate and test, where the configuration names another kind."""
        kind = self.config.engine.judge
        if not kind or kind == self.config.engine.kind:
            return None
        return replace(self.engine, kind=kind, options={}, tensor_parallel=1)

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts become token ids in the way of our own engines."""
        kinds = (self.config.engine.kind, self.config.engine.judge)
        return any(kind and ":" not in kind for kind in kinds)

    @property
    def task_name(self) -> str:
        """One line that names the task for people."""
        return configuration.task_name(self.task.task)


def prepare(config: Config) -> Prepared:
    """Check everything that can be checked without an engine.

    Errors: ConfigError, TaskError, CheckpointError, each one line that names the setting.
    """
    settings = portable(configuration.task_settings(config.task))
    task = make_task(**settings)
    return with_model(config, settings, task, deal(config, task))


def deal(config: Config, task: Task) -> dict[str, Split]:
    """The task's splits. Errors: TaskError."""
    return make_splits(task, _sizes(config), config.splits.seed)


def _sizes(config: Config) -> dict[str, int]:
    return {name: getattr(config.splits, name) for name in NAMES}


def with_model(
    config: Config, settings: dict[str, Any], task: Task, splits: Mapping[str, Split]
) -> Prepared:
    """What `prepare` makes of a task that is there: its settings and splits.

    Errors: ConfigError, CheckpointError.
    """
    folder = parameters.resolve(config.model.path)
    specs = parameters.read_specs(folder)
    perturbed = parameters.perturbed_names(specs, config.perturb.include, config.perturb.exclude)
    _check_engine(folder, config, "engine.kind", config.engine.kind)
    if config.engine.judge:
        _check_engine(folder, config, "engine.judge", config.engine.judge)
    _check_rounds(config)
    chosen = set(perturbed)
    return Prepared(
        config=config,
        folder=folder,
        perturbed=perturbed,
        parameters=sum(spec.size for spec in specs if spec.name in chosen),
        task=TaskSettings(
            settings,
            _sizes(config),
            config.splits.seed,
            task.version,
            {name: split.digest for name, split in splits.items()},
            config.task.grading_processes,
            config.task.grading_limit_s,
        ),
        model_digest=parameters.model_digest(folder),
        in_place=in_place(task),
    )


def with_prompt_tokens(prepared: Prepared, longest: int) -> Prepared:
    """The same with the length of the longest prompt, in tokens.

    Errors: ConfigError when the model, or a limit set for the engine, cannot hold an answer to it.
    """
    new = prepared.config.decoding.max_new_tokens
    needed = f"the longest prompt has {longest} tokens, decoding.max_new_tokens adds {new}"
    content = parameters.read_json(prepared.folder / "config.json")
    content = content.get("text_config") or content
    limit = next((content[key] for key in _LENGTHS if isinstance(content.get(key), int)), None)
    if limit is not None and longest + new > limit:
        raise ConfigError(
            f"decoding.max_new_tokens={new}: {needed}, and the model takes {limit} in all"
        )
    chosen = prepared.config.engine.options.get("max_model_len")
    if isinstance(chosen, int) and longest + new > chosen:
        raise ConfigError(
            f"engine.options.max_model_len={chosen}: expected at least {longest + new} ({needed})"
        )
    return replace(prepared, prompt_tokens=longest)


def _check_rounds(config: Config) -> None:
    """ConfigError where a round from a subspace could not be consolidated once it is scored: its
    candidates share the seeds of all rounds before it."""
    rounds, size = config.recentering.rounds, config.recentering.population
    most = size * (config.population.size + rounds * size)
    if config.recentering.low_rank and rounds and most > DENSE_COORDINATES:
        raise ConfigError(
            f"recentering.population={size}: expected fewer, or recentering.low_rank=false; with "
            f"population.size={config.population.size} and {rounds} rounds a round may have {most:,} "
            f"coordinates, more than {DENSE_COORDINATES:,}"
        )


def _check_engine(folder: Path, config: Config, setting: str, kind: str) -> None:
    """ConfigError for an engine class whose module is not there, or a folder without tokenizer."""
    module, _, name = kind.partition(":")
    if name:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise ConfigError(f"{setting}={kind!r}: no module {module!r}")
        return
    # On a cluster the engines' nodes may have what the driver's lacks; they say so themselves.
    local = not os.environ.get("RAY_ADDRESS")
    if kind == "vllm" and local and importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"{setting}='vllm': no module 'vllm'; {VLLM_INSTALL}")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ConfigError(f"model.path={config.model.path!r}: no tokenizer files in the folder")
