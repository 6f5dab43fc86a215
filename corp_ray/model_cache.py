"""Model folders that live on a storage, on the local disk of the node that needs them.

A folder is fetched once per node, whichever actor asks first; the others wait for it. See
docs/method.md, "Storage".
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from corp_ray.errors import CheckpointError
from corp_ray.files import disk_errors
from corp_ray.storage import Storage, is_url

COMPLETE = "recipe.json"  # uploaded last: a folder without it does not exist
KEPT = 4  # folders that no process uses and that stay for the next run
_LOOK_AGAIN_S = 0.02  # after another process was just looking whether the folder is there
_held: dict[Path, int] = {}  # locks of what this process uses, held until it ends


def cache_folder() -> Path:
    """Where this node keeps fetched models: CORP_RAY_CACHE, or below the temporary folder."""
    given = os.environ.get("CORP_RAY_CACHE")
    default = Path(tempfile.gettempdir()) / f"corp-models-{os.getuid()}"
    return Path(given).expanduser().absolute() if given else default


def local_folder(path: str, digest: str) -> Path:
    """The local folder of a model: `path` itself, or what is fetched from that URL.

    It stays until this process ends. Errors: CheckpointError when there is no complete model at
    the URL; StorageError; DiskFullError.
    """
    if not is_url(path):
        return Path(path)
    return _entry(path, digest, lambda folder: _fetch(path, folder))


def digested(path: str, digest_of: Callable[[Path], str]) -> str:
    """The digest of a model whose digest nobody knows yet; one from a URL stays in the cache."""
    if not is_url(path):
        return digest_of(Path(path))
    scratch = cache_folder() / f"fetch-{uuid.uuid4().hex}"
    lock = _shared(scratch, lambda folder: _fetch(path, folder))
    try:
        digest = digest_of(scratch)
        _entry(path, digest, lambda folder: os.rename(scratch, folder))
        return digest
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _lock_file(scratch).unlink(missing_ok=True)
        os.close(lock)


def _entry(path: str, digest: str, fetch: Callable[[Path], None]) -> Path:
    place = hashlib.sha256(path.encode()).hexdigest()[:16]
    folder = cache_folder() / f"{digest[:32]}-{place}"
    if folder not in _held:
        _held[folder] = _shared(folder, fetch)
        _drop_unused(folder.parent)
    return folder


def _fetch(path: str, folder: Path) -> None:
    storage = Storage.open(path, "model")
    if not storage.exists(COMPLETE):
        raise CheckpointError(f"{path}: no complete model folder there ({COMPLETE} is missing)")
    with disk_errors(str(folder)):
        storage.download("", folder)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _lock(folder: Path, how: int) -> int:
    """An open lock on a folder of the cache. Errors: BlockingIOError when `how` does not wait."""
    while True:
        lock = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, how)
            if os.path.samestat(os.fstat(lock), os.stat(_lock_file(folder))):
                return lock
        except FileNotFoundError:
            pass  # dropped meanwhile, with its folder
        except BlockingIOError:
            os.close(lock)
            raise
        os.close(lock)


def _unused(folder: Path) -> int | None:
    """A lock that keeps others away, None while anybody uses the folder."""
    if folder in _held:
        return None
    try:
        return _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _shared(folder: Path, fetch: Callable[[Path], None]) -> int:
    """A lock that others may share, on a folder that is there; one process alone fetches it."""
    with disk_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = _lock(folder, fcntl.LOCK_SH)
        if folder.is_dir():
            os.utime(folder)  # used now: of those that nobody uses, the latest stay
            return lock
        os.close(lock)
        try:  # not to be waited for: who has fetched it meanwhile keeps its lock while it lives
            lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_AGAIN_S)
            continue
        try:
            if not folder.is_dir():
                for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
                    shutil.rmtree(leftover)  # of a process that was killed while fetching
                fetch(folder)
        finally:
            os.close(lock)


def _drop_unused(cache: Path) -> None:
    """Keep what any process uses and the `KEPT` latest of the others; no leftovers of killed ones."""
    found = [path for path in cache.iterdir() if path.is_dir()]
    leftovers = [path for path in found if path.name.startswith(".")]
    folders = sorted(set(found) - set(leftovers), key=_used_at, reverse=True)
    unused = 0
    for folder in folders:
        lock = _unused(folder)
        if lock is not None:
            unused += 1
            if unused > KEPT:
                shutil.rmtree(folder, ignore_errors=True)
                _lock_file(folder).unlink(missing_ok=True)
            os.close(lock)
    for leftover in leftovers:
        lock = _unused(cache / leftover.name[1:].partition(".")[0])
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
