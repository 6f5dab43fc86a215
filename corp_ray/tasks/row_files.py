"""Rows of one file: Parquet, JSON lines, a JSON array, an Arrow stream; JSON also gzipped.

Each row comes with a place ("FILE line 7") that is fit for an error message. Everything that is
not Parquet, Arrow or a JSON array is read as JSON lines.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corp_ray.errors import TaskError

Row = dict[str, Any]

ENDINGS = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".arrow")


def lacking(place: str, row: Row, field: str) -> TaskError:
    """The error of a row that does not have a field."""
    return TaskError(f"{place}: no {field!r}; the row has {', '.join(row) or 'nothing'}")


def read_file(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) for every row, in the file's order.

    Errors: TaskError naming the file, and the line or row where there is one.
    """
    if not path.is_file():
        what = "a folder, expected a file of rows" if path.is_dir() else "no such file"
        raise TaskError(f"task.path={str(path)!r}: {what}")
    if not path.name.endswith(ENDINGS):
        raise TaskError(f"task.path={str(path)!r}: expected a name ending in {', '.join(ENDINGS)}")
    if path.suffix in (".parquet", ".arrow"):
        yield from _columns(path)
        return
    text = _text(path)
    if path.name.endswith((".json", ".json.gz")) and text.lstrip().startswith("["):
        yield from _array(path, text)
        return
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 and its like end no line
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskError(f"{path} line {number}: not JSON ({_reason(error)})") from error
        yield f"{path} line {number}", _object(row, f"{path} line {number}")


def _columns(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row
    except (pa.ArrowException, OSError) as error:
        kind = "a Parquet file" if path.suffix == ".parquet" else "an Arrow stream"
        raise TaskError(f"task.path={str(path)!r}: not {kind} ({_reason(error)})") from error


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(4096, use_threads=False)
        return
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        yield from stream


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"task.path={str(path)!r}: not UTF-8 (byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"task.path={str(path)!r}: cannot be read ({_reason(error)})") from error


def _array(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise TaskError(f"{path}{line}: not JSON ({_reason(error)})") from error
    for number, row in enumerate(rows, 1):
        yield f"{path} row {number}", _object(row, f"{path} row {number}")


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise TaskError(f"{place}: expected an object, got {json.dumps(row)[:60]}")
    return row


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return " ".join(str(error).split())[:200] or type(error).__name__
