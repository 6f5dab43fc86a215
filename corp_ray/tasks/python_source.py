"""A Python file's text as a module: the file itself need not be there.

Tracebacks show its lines under its path. One text is run once a process, under a private name that
the text decides, so that what it defines can be pickled between processes that have loaded it.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from corp_ray.errors import TaskError

FAILURES = (Exception, SystemExit)  # what a foreign file may raise, sys.exit() included


def read_source(path: str) -> str:
    """The text of a task's file. Errors: TaskError when it cannot be read."""
    try:
        return Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"task.path={path!r}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise TaskError(f"task.path={path!r}: {error.strerror or error}") from error


class _Source(importlib.abc.InspectLoader):
    """A loader of one text, which is also what tracebacks show where there is no such file."""

    def __init__(self, path: str, source: str):
        self._path, self._source = path, source

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> Any:
        return compile(self._source, self._path, "exec", dont_inherit=True)


def load(path: str, source: str) -> ModuleType:
    """The module that `source` is; `path` names it in errors and tracebacks.

    Errors: TaskError, one line naming the file and the line.
    """
    name = "corp_ray_task_" + hashlib.sha256(f"{path}\0{source}".encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    before, null, _ = source.partition("\0")
    if null:  # which Python says without its place, in words of its version
        line = before.count("\n") + 1
        raise TaskError(f"{Path(path).name} line {line}: a null byte")
    loader = _Source(path, source)
    spec = importlib.util.spec_from_loader(name, loader, origin=path)
    if spec is None:  # never for a loader of our own; the type allows it
        raise TaskError(f"task.path={path!r}: cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules[name] = module  # classes of the file are pickled by this name
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise TaskError(f"{Path(path).name} line {error.lineno}: {error.msg}") from error
    except FAILURES as error:
        del sys.modules[name]
        hint = ""
        if isinstance(error, ImportError):
            hint = " (a task's file may import installed packages, no file beside it)"
        raise TaskError(f"{said(Path(path).name, error)}{hint}") from error
    return module


def said(name: str, error: BaseException) -> str:
    """One line: the error, and the last line of the file `name` that it came through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == name and frame.lineno
    ]
    where = f"{name} line {lines[-1]}: " if lines else ""
    return f"{where}{' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"
