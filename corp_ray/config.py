"""The configuration: loading YAML files with command-line overrides, and its validation.

One YAML file is one runnable experiment; further ones change it, such as those of conf/models/.
Nothing here imports torch or starts an engine; every
mistake is one `ConfigError` line that names the field, its value and what would be right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from corp_ray.config_checks import comparison_problems, problems, task_kind
from corp_ray.errors import ConfigError
from corp_ray.settings import FAMILIES, Config, TaskConfig


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
            raise ConfigError(
                f"unknown key {prefix}{key}={value!r}: {_nearest(str(key), list(fields))}"
            )
        for kind, name in ((list, "a list"), (dict, "a mapping")):
            if isinstance(fields[key], kind) and not isinstance(value, kind):
                raise ConfigError(f"{prefix}{key}={value!r}: expected {name}")
        if dataclasses.is_dataclass(fields[key]):
            _check_keys({} if value is None else value, fields[key], f"{prefix}{key}.")


def _merge(schema: DictConfig, given: DictConfig) -> DictConfig:
    try:
        merged = OmegaConf.merge(schema, given)
        assert isinstance(merged, DictConfig)
        return merged
    except TypeError as error:
        raise ConfigError(f"configuration: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        key = error.full_key or "?"
        wanted = OmegaConf.select(schema, key, throw_on_missing=False)
        first = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {first} (expected something like {wanted!r})") from error


def _read(path: str) -> Any:
    if not Path(path).is_file():
        raise ConfigError(f"--config {path}: no such file")
    try:
        return OmegaConf.load(path)
    except Exception as error:  # the YAML parser has many; each is the same mistake
        raise ConfigError(f"--config {path}: {' '.join(str(error).split())}") from error


def _lay(schema: DictConfig, layer: Any, source: str) -> DictConfig:
    """The schema with a layer over it; `source` begins the line of a mistake in it."""
    try:
        _check_keys(OmegaConf.to_container(layer), Config())
        return _merge(schema, layer)
    except ConfigError as error:
        raise ConfigError(f"{source}{error}") from error


def _override(schema: DictConfig, override: str) -> DictConfig:
    """The schema with `key=value` over it: a text as it stands, anything else as YAML has it.

    A mapping given whole takes the place of the one below it; `key.name=value` changes one entry.
    """
    key, _, value = override.partition("=")
    section, _, name = key.partition(".")
    default = getattr(getattr(Config(), section, None), name, None)
    if isinstance(default, str):
        layer = OmegaConf.create({section: {name: _unquoted(value)}})
    else:
        try:
            layer = OmegaConf.from_dotlist([override])
        except Exception as error:  # the YAML parser has many; each is the same mistake
            raise ConfigError(f"{override}: {' '.join(str(error).split())}") from error
    if isinstance(default, dict):
        OmegaConf.update(schema, key, {}, merge=False)
    return _lay(schema, layer, "")


def _unquoted(value: str) -> str:
    """A text as a person means it: quotes around all of it are YAML's, null is no text."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        with contextlib.suppress(Exception):  # the YAML parser has many
            found = OmegaConf.from_dotlist([f"text={value}"])["text"]
            return found if isinstance(found, str) else value
    return "" if value == "null" else value


def load(paths: str | Sequence[str] | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of YAML files, each over those before it, with `key=value` overrides.

    Without a run.id the run is named after its files, "a-b" for a.yaml and b.yaml. Errors:
    ConfigError for a missing or unreadable file, an unknown key, a wrong type or a value that
    cannot run.
    """
    files = [paths] if isinstance(paths, str) else list(paths or ())
    layers = [(_read(path), f"--config {path}: " if len(files) > 1 else "") for path in files]
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"argument {override!r}: expected key=value")
    schema = OmegaConf.structured(Config)
    for layer, source in layers:
        schema = _lay(schema, layer, source)
    for override in overrides:
        schema = _override(schema, override)
    try:
        config = OmegaConf.to_object(schema)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key or 'configuration'}: {first}") from error
    assert isinstance(config, Config)
    if not config.run.id:
        if not files:
            raise ConfigError("--config: expected a YAML file of an experiment, or a run.id")
        config.run.id = "-".join(Path(path).stem for path in files)
    validate(config)
    return config


def validate(config: Config) -> None:
    """ConfigError for the first value that cannot run."""
    for name, value, right in problems(config):
        raise ConfigError(f"{name}={value!r}: expected {right}")


def validate_comparison(config: Config) -> None:
    """ConfigError for the first value that jobs.compare cannot run with."""
    for name, value, right in comparison_problems(config):
        raise ConfigError(f"{name}={value!r}: expected {right}")


def to_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def flat(
    content: Mapping[str, Any], prefix: str = "", *, empty: bool = False
) -> Iterator[tuple[str, Any]]:
    """Nested settings by their dotted names; `empty`: also mappings that hold nothing."""
    for key, value in content.items():
        if isinstance(value, Mapping) and (value or not empty):
            yield from flat(value, f"{prefix}{key}.", empty=empty)
        else:
            yield f"{prefix}{key}", value


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def task_settings(task: TaskConfig) -> dict[str, Any]:
    """The arguments of `tasks.make_task` for this configuration."""
    kind = task_kind(task)
    if kind == "reasoning_gym":
        names = "dataset arguments size seed answer partial_credit system_prompt"
    elif kind == "python_file":
        names = "path arguments system_prompt"
    elif kind in FAMILIES:
        names = "path dataset subset split system_prompt"
        if kind in ("mbpp", "humaneval"):
            names += " sandbox"
    else:
        names = "path question_field answer_field answer_pattern grader system_prompt"
    return {"kind": kind} | {name: getattr(task, name) for name in names.split()}


def task_name(settings: Mapping[str, Any]) -> str:
    """One line that names a task for people, from the arguments of `tasks.make_task`."""
    kind = settings["kind"]
    arguments = f" {json.dumps(settings['arguments'])}" if settings.get("arguments") else ""
    if kind == "reasoning_gym":
        return f"reasoning-gym {settings['dataset']}{arguments}"
    name = PurePath(settings["path"]).name if settings["path"] else settings.get("dataset", "")
    if kind == "rows":
        return f"{name}, graded by {settings['grader']}"
    if kind == "python_file":
        return f"{name}{arguments}, a task of its own"
    source = " ".join(word for word in (name, settings["subset"], settings["split"]) if word)
    return f"{kind} of {source}" if source else kind
