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

from corp_ray.config import flat

_FLUSH_S = 10
_INIT_S, _FINISH_S = 60.0, 30.0  # what Weights & Biases is waited for; the data stay on disk


class Tracker(Protocol):
    """Takes the numbers of one run; a run that is taken up again goes on where it was.

    `rows`: how many the reward table holds by now.
    """

    def scalars(
        self, rows: int, values: Mapping[str, float], *, round_number: int | None = None
    ) -> None:
        """Values by name, drawn over rows; those of a round over its number, perhaps once more."""

    def table(self, rows: int, name: str, content: Sequence[Mapping[str, Any]]) -> None:
        """A table whose lines have the same columns."""

    def close(self) -> None:
        """Everything told is where it belongs."""


def run_key(run_id: str, directory: str) -> str:
    """A run's id at Weights & Biases, the same whenever the run in this directory is resumed."""
    return f"{run_id[:40]}-{hashlib.sha256(f'{directory}/{run_id}'.encode()).hexdigest()[:12]}"


def _plain(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings as one level with dotted names; lists and the like become texts."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(settings)
    }


class TensorBoard:
    """Event files in a local folder, read by `tensorboard --logdir`: `rows` and `rounds` in it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        logging.getLogger("tensorboard").setLevel(logging.WARNING)  # each file it reads is a line
        self._rows, self._rounds = _Curves(folder / "rows"), _Curves(folder / "rounds")
        self._rows.add(0, summary=hparams_pb(_plain(settings)))

    def scalars(
        self, rows: int, values: Mapping[str, float], *, round_number: int | None = None
    ) -> None:
        if round_number is None:
            self._rows.put(rows, values)
        else:
            self._rounds.put(round_number, values)

    def table(self, rows: int, name: str, content: Sequence[Mapping[str, Any]]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata

        text = TensorProto(dtype=DT_STRING, string_val=[_markdown(content).encode()])
        metadata = create_summary_metadata(name, "")
        value = Summary.Value(tag=name, metadata=metadata, tensor=text)
        self._rows.add(rows, summary=Summary(value=[value]))

    def close(self) -> None:
        self._rows.close()
        self._rounds.close()


class _Curves:
    """Curves in the event files of a folder; each start adds a file.

    What the earlier files hold is not written twice, so a resumed run is one curve. A step with
    another value than before hides that value and what came after it, as after a crash.
    """

    def __init__(self, folder: Path):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._written = _values_in(folder)
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_S)

    def put(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        told = {(name, step): np.float32(value) for name, value in values.items()}
        if any(self._written.get(key, value) != value for key, value in told.items()):
            self.add(step, session_log=SessionLog(status=SessionLog.START))
            self._written = {key: v for key, v in self._written.items() if key[1] < step}
        new = {key: value for key, value in told.items() if key not in self._written}
        if new:
            self._written |= new
            pairs = [Summary.Value(tag=name, simple_value=v) for (name, _), v in new.items()]
            self.add(step, summary=Summary(value=pairs))

    def add(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **content))

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


def _markdown(content: Sequence[Mapping[str, Any]]) -> str:
    head = content[0]
    lines = [list(head), ["---"] * len(head), *(line.values() for line in content)]
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
        for axis, names in (("rows", "*"), ("round", "round/*")):
            self._run.define_metric(axis)
            self._run.define_metric(names, step_metric=axis)
        self._known_round, self._news = self._run.summary.get("round", -1), False

    def scalars(
        self, rows: int, values: Mapping[str, float], *, round_number: int | None = None
    ) -> None:
        if round_number is None:
            self._news = True
            self._log(rows, {"rows": rows, **values})
        elif self._news or round_number > self._known_round:  # else told again by a resumed run
            self._log(rows, {"round": round_number, **values})

    def table(self, rows: int, name: str, content: Sequence[Mapping[str, Any]]) -> None:
        data = [list(line.values()) for line in content]
        self._log(rows, {name: self._package.Table(columns=list(content[0]), data=data)})

    def _log(self, rows: int, content: dict[str, Any]) -> None:
        # Rows only grow, over resumptions too; W&B refuses a step that it is past.
        self._run.log(content, step=max(rows, self._run.step))

    def close(self) -> None:
        self._run.finish()
