"""Where a task's rows come from: a Parquet or JSONL file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corp_ray.errors import TaskError

Row = dict[str, Any]


@dataclass(frozen=True)
class Upstream:
    """Where a family's rows are published: a Hugging Face dataset id, its subset and split, and
    the name of its folder in RandOpt's layout (data/NAME/...)."""

    dataset: str
    subset: str = ""
    split: str = "train"
    folder: str = ""


def read_rows(
    upstream: Upstream, *, path: str = "", dataset: str = "", subset: str = "", split: str = ""
) -> Iterator[tuple[str, Row]]:
    """(place, row) for every row; the place is fit for an error message.

    Errors: TaskError naming the setting, or the file and line.
    """
    if not path:
        raise TaskError(f"task.path: needed ({upstream.dataset} in a .jsonl or .parquet file)")
    yield from read_file(Path(path))


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) for every row; the place is fit for an error message."""
    if not path.is_file():
        raise TaskError(f"task.path={str(path)!r}: no such file")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise TaskError(f"task.path={str(path)!r}: not a Parquet file ({error})") from error
        yield from ((f"{path} row {number}", row) for number, row in enumerate(rows, 1))
        return
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TaskError(f"task.path={str(path)!r}: not UTF-8 (byte {error.start})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{path} line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise TaskError(f"{path} line {number}: expected an object, got {line[:60]!r}")
        yield f"{path} line {number}", row
