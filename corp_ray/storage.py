"""A folder on any file system: the local disk, a shared mount, S3, Google Cloud and others.

Whoever reads a file finds all of it or none. Locally everything is as files.py does it; elsewhere
as remote_files.py does. See docs/method.md, "Storage".
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from corp_ray.errors import CheckpointError, ConfigError
from corp_ray.files import LocalFiles
from corp_ray.remote_files import RemoteFiles, open_files

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/")


def is_url(location: str) -> bool:
    """Whether a location is a URL; everything else is a local path."""
    return bool(_SCHEME.match(location))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


class Storage:
    """A folder: `url` says where (a local path, or scheme://...), `local` is its local path or None.

    Pickles as its URL and is opened anew where it arrives, with the credentials of that place.
    Errors: FileNotFoundError when reading what is absent; in writing DiskFullError or
    RewardTableError locally, StorageError elsewhere. Names are relative, with "/" between parts.
    """

    def __init__(self, url: str, files: LocalFiles | RemoteFiles, path: str):
        self.url, self._files, self._path = url, files, path
        self.local = Path(path) if isinstance(files, LocalFiles) else None

    @classmethod
    def open(cls, location: str | Path, setting: str = "run.directory") -> Storage:
        """The folder at a path or URL, which need not exist.

        Errors: ConfigError naming `setting` for a scheme that nobody knows, a missing package, a
        wrong option, or credentials in the URL.
        """
        text = str(location)
        if text.startswith("file:"):
            text = unquote(re.sub("^file:(//(localhost)?(?=/))?", "", text))
            if not re.match("/(?!/)", text):
                raise ConfigError(f"{setting}={str(location)!r}: expected file:///absolute/path")
        if is_url(text):
            return cls(text, *open_files(text, setting))
        path = str(Path(text).expanduser().resolve())
        return cls(path, LocalFiles(), path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage.open, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> Storage:
        if not name:
            return self
        where, mark, options = self._split()
        url = f"{where.rstrip('/')}/{name}{mark}{options}"
        return Storage(url, self._files, self._at(name))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self._path.rpartition("/")[2]

    @property
    def parent(self) -> Storage:
        where, mark, options = self._split()
        files, path = self._files, self._path.rpartition("/")[0]
        return Storage(f"{where.rpartition('/')[0]}{mark}{options}", files, path)

    def _split(self) -> tuple[str, str, str]:
        """The place, and the file system's options (endpoint, region) that end a URL."""
        return self.url.partition("?") if self.local is None else (self.url, "", "")

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}" if name else self._path

    def read_bytes(self, name: str) -> bytes:
        return self._files.read(self._at(name))

    def read_text(self, name: str) -> str:
        return self.read_bytes(name).decode("utf-8")

    def read_json(self, name: str) -> dict[str, Any]:
        """Errors: CheckpointError when it is not a JSON mapping."""
        try:
            content = json.loads(self.read_bytes(name))
        except ValueError as error:
            raise CheckpointError(f"{self / name}: not readable ({error})") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{self / name}: not a JSON mapping")
        return content

    def write_bytes(self, name: str, data: bytes) -> None:
        self._files.write(self._at(name), data)

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode("utf-8"))

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, indent=1) + "\n")

    def append_line(self, name: str, content: Any) -> None:
        """Append one JSON line, on a line of its own even after a write that was cut short."""
        self._files.append(self._at(name), json.dumps(content).encode())

    def json_lines(self, name: str) -> list[dict[str, Any]]:
        """What `append_line` wrote, without a line that was cut short; [] when there is no file."""
        try:
            text = self.read_bytes(name).decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue
            if isinstance(one, dict):
                found.append(one)
        return found

    def exists(self, name: str = "") -> bool:
        return self._files.exists(self._at(name))

    def names(self, pattern: str = "*") -> list[str]:
        """Files directly in the folder, sorted, never temporary ones; [] when it does not exist."""
        found = [name for name, is_file in self._files.entries(self._path) if is_file]
        return sorted(
            name for name in found if fnmatch.fnmatchcase(name, pattern) and not _is_temporary(name)
        )

    def folders(self) -> list[str]:
        """Folders directly in it, sorted; [] when it does not exist."""
        return sorted(name for name, is_file in self._files.entries(self._path) if not is_file)

    def make(self) -> None:
        self._files.make(self._path)

    def remove(self, name: str) -> None:
        self._files.remove(self._at(name))

    def remove_tree(self) -> None:
        self._files.remove_tree(self._path)

    def rename(self, old: str, new: str) -> None:
        """Move a file or a folder: atomic locally, copy and then delete elsewhere."""
        self._files.rename(self._at(old), self._at(new))

    def upload(self, source: Path, name: str, last: str) -> None:
        """Copy a local folder to the folder `name`, the file `last` after all others.

        Who finds `last` there finds everything. What an interrupted upload left is replaced.
        """
        target = self / name
        target.remove(last)  # first: half of what was there would look complete
        target.remove_tree()
        paths = sorted(path for path in source.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path == source / last):
            place = path.relative_to(source).as_posix()
            (target / place.rpartition("/")[0]).make() if "/" in place else target.make()
            self._files.put(path, target._at(place))

    def download(self, name: str, target: Path) -> None:
        """Copy the folder `name` to the local folder `target`, complete or absent.

        Errors: FileNotFoundError when it holds no file; a `target` that somebody else has made
        meanwhile is left as it is.
        """
        staged = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
        try:
            if not (self / name)._fetch(staged):
                raise FileNotFoundError(str(self / name))
            try:
                os.rename(staged, target)
            except OSError:
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _fetch(self, target: Path) -> int:
        """Copy all files below to a local folder; how many there were."""
        count = 0
        for name, is_file in sorted(self._files.entries(self._path)):
            if is_file:
                target.mkdir(parents=True, exist_ok=True)
                self._files.get(self._at(name), target / name)
                count += 1
            else:
                count += (self / name)._fetch(target / name)
        return count

    def check_writable(self, named: str = "") -> None:
        """ConfigError naming the place and the reason when nothing can be written here.

        `named` is how the message calls it. Locally nothing is written; elsewhere a probe is
        written and removed (S3 then shows an empty folder).
        """
        reason = self._files.why_not_writable(self._path)
        if reason:
            raise ConfigError(f"{named or f'run.directory={self.url!r}'}: cannot write in {reason}")
