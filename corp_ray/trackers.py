"""Where a run's numbers can be logged: TensorBoard's event files, or Weights & Biases.

A tracker takes scalars, tables and settings; what they are is tracking.py's business. Each imports
its package when it is made, and may raise anything. TensorBoard's files are written with the
package `tensorboard` itself, which does without torch and TensorFlow. Sources: the event format of
tensorboard/compat/proto/event.proto; https://docs.wandb.ai/ref/python/init.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# What a scalar is drawn over: rows in the reward table, or the round's number.
ROWS, ROUND = "rows", "round"
_FLUSH_S = 10
_INIT_S, _FINISH_S = 60.0, 30.0  # what Weights & Biases is waited for; the data stay on disk


class Tracker(Protocol):
    """Takes the numbers of one run; a run that is taken up again goes on where it was."""

    def scalars(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """Values by name at `step` of ROWS or ROUND; those of a round may be told again."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with the same columns."""

    def close(self) -> None:
        """Everything told is where it belongs."""


def run_key(run_id: str, directory: str) -> str:
    """A run's id at Weights & Biases, the same whenever the run in this directory is resumed."""
    return f"{run_id[:40]}-{hashlib.sha256(f'{directory}/{run_id}'.encode()).hexdigest()[:12]}"


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings as one level with dotted names; lists and the like become texts."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found


class TensorBoard:
    """Event files in a local folder, read by `tensorboard --logdir`; each start adds one.

    What the folder's earlier files hold is not written twice, so a resumed run is one curve.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        logging.getLogger("tensorboard").setLevel(logging.WARNING)  # each file it reads is a line
        folder.mkdir(parents=True, exist_ok=True)
        self._written = _values_in(folder)
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_S)
        self._rows = 0
        self._add(0, hparams_pb(flat(settings)))

    def scalars(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if axis == ROWS:
            self._rows = step
        new = {
            name: value
            for name, value in values.items()
            if self._written.get((name, step)) != np.float32(value)
        }
        if new:
            self._written |= {(name, step): np.float32(value) for name, value in new.items()}
            pairs = [Summary.Value(tag=name, simple_value=value) for name, value in new.items()]
            self._add(step, Summary(value=pairs))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata

        text = TensorProto(dtype=DT_STRING, string_val=[_markdown(rows).encode()])
        metadata = create_summary_metadata(name, "")
        value = Summary.Value(tag=name, metadata=metadata, tensor=text)
        self._add(self._rows, Summary(value=[value]))

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()


def _values_in(folder: Path) -> dict[tuple[str, int], np.float32]:
    """{(name, step): value} of the scalars in a folder's event files."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    return {
        (name, event.step): np.float32(event.value)
        for name in events.Tags()[SCALARS]
        for event in events.Scalars(name)
    }


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


class WeightsAndBiases:
    """A run at Weights & Biases, online or in a local folder for `wandb sync`.

    What is empty is left to the package, so WANDB_MODE, WANDB_ENTITY, WANDB_BASE_URL and
    WANDB_API_KEY mean what they mean there. Offline each start leaves a folder, all of the same id.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        key: str,
        name: str,
        project: str,
        entity: str,
        mode: str,
    ):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._package = wandb
        self._run = wandb.init(
            project=project,
            entity=entity or None,
            id=key,
            name=name,
            dir=str(folder),
            mode=mode or None,  # type: ignore[arg-type]
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(
                console="off",
                quiet=True,
                init_timeout=_INIT_S,
                login_timeout=_INIT_S,
                finish_timeout=_FINISH_S,
            ),
        )
        for axis, names in ((ROWS, "*"), (ROUND, "round/*")):
            self._run.define_metric(axis)
            self._run.define_metric(names, step_metric=axis)
        self._known_round = self._run.summary.get(ROUND, -1)
        self._rows, self._news = 0, False

    def scalars(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        if axis == ROWS:
            self._rows, self._news = step, True
        elif not self._news and step <= self._known_round:
            return  # told again by a resumed run
        self._log({axis: step, **values})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        data = [list(row.values()) for row in rows]
        self._log({name: self._package.Table(columns=list(rows[0]), data=data)})

    def _log(self, content: Mapping[str, Any]) -> None:
        # Rows only grow, over resumptions too; W&B refuses a step that it is past.
        self._run.log(dict(content), step=max(self._rows, self._run.step))

    def close(self) -> None:
        self._run.finish()
