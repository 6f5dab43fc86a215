"""What of a run is logged: an observer that turns events into scalars and hands them to trackers.

Each tracker works in a thread of its own, so that neither a slow disk nor a network that is gone
holds up an engine; one that fails is left out from then on, with one line. Off unless the
configuration's `tracking` says otherwise. See docs/method.md, "Tracking".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from corp_ray.errors import ConfigError
from corp_ray.observers import kind_of_phase
from corp_ray.records import EngineCounts, Evaluation
from corp_ray.settings import Config
from corp_ray.storage import Storage, is_url
from corp_ray.trackers import TensorBoard, Tracker, WeightsAndBiases, run_key

log = logging.getLogger(__name__)

EVERY_S = 5.0
CLOSE_S = 30.0
Opening = Callable[[], Tracker]


def tracking_folder(config: Config) -> Path:
    """The local folder of a run's trackers. Errors: ConfigError where there is none."""
    given, runs = config.tracking.folder, config.run.directory
    if is_url(given):
        raise ConfigError(f"tracking.folder={given!r}: expected a local folder, not a URL")
    if not given and is_url(runs):
        raise ConfigError(
            f"tracking.folder='': expected a local folder, since run.directory={runs!r} is none"
        )
    return Path(given or runs).expanduser().absolute() / config.run.id


def open_tracking(config: Config, *, shard: str = "") -> Tracking | None:
    """The observer that the configuration asks for, None when it asks for none.

    `shard`: the name of a job that fills the run's table beside others; it is tracked by itself.
    Nothing is written before the run directory is opened. Errors: ConfigError.
    """
    wanted = config.tracking
    if not (wanted.tensorboard or wanted.wandb_project):
        return None
    name = f"{config.run.id}-{shard}" if shard else config.run.id
    folder = tracking_folder(config)
    folder = folder / "shards" / shard if shard else folder
    openings: dict[str, Opening] = {}
    if wanted.tensorboard:
        openings["tensorboard"] = partial(TensorBoard, folder / "tensorboard", asdict(config))
    if wanted.wandb_project:
        openings["wandb"] = partial(
            WeightsAndBiases,
            folder,
            asdict(config),
            key=run_key(name, Storage.open(config.run.directory).url),
            name=name,
            project=wanted.wandb_project,
            entity=wanted.wandb_entity,
            mode=wanted.wandb_mode,
        )
    return Tracking(openings)


class Tracking:
    """An observer that logs phases at most every `every_s` seconds and at their end, every round,
    and the test table. `openings` make the trackers, by name, once the run directory is open."""

    def __init__(
        self,
        openings: Mapping[str, Opening],
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ):
        self._openings, self._clock, self._every_s = openings, clock, every_s
        self._senders: list[_Sender] = []
        self._rows = self._done = self._new = self._tokens = 0
        self._phase, self._began, self._spoke = "", 0.0, 0.0
        self._means: dict[str, list[float]] = {}
        self._counts: EngineCounts | None = None

    def opened(self, rows: int) -> None:
        self._rows = rows
        self._senders = [_Sender(name, opening) for name, opening in self._openings.items()]

    def phase(self, name: str, total: int, done: int) -> None:
        self._phase = kind_of_phase(name).replace(" ", "_")
        self._done, self._new, self._tokens, self._means = done, 0, 0, {}
        self._began = self._spoke = self._clock()

    def result(self, evaluation: Evaluation) -> None:
        self._rows += 1
        self._done += 1
        self._new += 1
        self._tokens += evaluation.generated_tokens
        self._means.setdefault(evaluation.split, []).append(evaluation.mean)
        if self._clock() - self._spoke >= self._every_s:
            self._point()

    def phase_done(self) -> None:
        if self._new:
            self._point()

    def note(self, line: str) -> None:
        """Lines are not numbers."""

    def engines(self, counts: EngineCounts) -> None:
        self._counts = counts

    def decided(self, record: Mapping[str, Any]) -> None:
        self._tell("scalars", self._rows, round_scalars(record), round_number=record["round"])

    def measured(self, rows: Sequence[Mapping[str, Any]]) -> None:
        values = {
            f"test/{row['name']}/{key}".replace(" ", "_"): row[key]
            for number, row in enumerate(rows)
            for key in (("mean", "gain", "low", "high") if number else ("mean",))
        }
        self._tell("scalars", self._rows, values)
        self._tell("table", self._rows, "test/table", rows)

    def close(self) -> None:
        """Wait until everything is sent, `CLOSE_S` at most."""
        self._tell("close")
        deadline = time.monotonic() + CLOSE_S
        for sender in self._senders:
            sender.wait(deadline)

    def _point(self) -> None:
        now, kind = self._clock(), self._phase
        self._spoke = now
        elapsed = max(now - self._began, 1e-9)
        values = {
            f"{kind}/done": self._done,
            f"{kind}/per_s": self._new / elapsed,
            f"{kind}/tokens_per_s": self._tokens / elapsed,
        }
        for split, means in self._means.items():
            values[f"reward/{split}/best"] = max(means)
            values[f"reward/{split}/mean"] = sum(means) / len(means)
        if self._counts is not None:
            values["engines/ready"] = self._counts.ready
            values["engines/idle_share"] = self._counts.idle_share
            values["engines/restarts"] = self._counts.restarts
            values["engines/set_aside"] = self._counts.set_aside
        self._tell("scalars", self._rows, values)

    def _tell(self, method: str, *arguments: Any, **named: Any) -> None:
        for sender in self._senders:
            sender.tell(method, *arguments, **named)


def round_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a round's record that are drawn over rounds; what a round lacks is left out."""
    values = {
        "round/center": record["support"]["center"],
        "round/best_of_population": record["support"]["best"]["mean"],
        "round/set_aside": record["set_aside"],
        "round/sigma": record["sigma"],
        "round/isotropic_share": record["isotropic_share"],
        "round/accepted": float(record["accepted"]),
    }
    best = next((p for p in record["proposals"] if p["id"] == record["best"]), None)
    if best is not None:
        values["round/best_validation"] = best["validation"]
        values["round/step"] = best["step"]
        point = ("quantile", "inverse_temperature")
        cloud = next(c for c in record["consolidations"] if all(c[k] == best[k] for k in point))
        names = ("elite", "norm", "effective_rank", "kappa", "ess")
        values |= {f"round/{name}": cloud[name] for name in names}
    if record["verdict"] is not None:
        names = ("mean", "lower", "p_value", "fixes", "regressions")
        values |= {f"round/gate_{name}": record["verdict"][name] for name in names}
    return {name: float(value) for name, value in values.items() if value is not None}


class _Sender:
    """One tracker in a thread of its own, which nobody waits for before the end."""

    def __init__(self, name: str, opening: Opening):
        self._name, self._opening = name, opening
        self._queue: SimpleQueue[tuple[str, tuple[Any, ...], dict[str, Any]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._send, name=f"corp-{name}", daemon=True)
        self._thread.start()

    def tell(self, method: str, *arguments: Any, **named: Any) -> None:
        if self._thread.is_alive():
            self._queue.put((method, arguments, named))

    def wait(self, deadline: float) -> None:
        self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            log.warning("tracking: %s has not taken everything; it is left behind", self._name)

    def _send(self) -> None:
        method = "open"
        try:
            tracker = self._opening()
            while method != "close":
                method, arguments, named = self._queue.get()
                getattr(tracker, method)(*arguments, **named)
        except Exception as error:  # noqa: BLE001 whatever it is, a run goes on without a tracker
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("tracking: %s is left out from here on (%s)", self._name, reason)
