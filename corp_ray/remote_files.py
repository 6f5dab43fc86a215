"""Files on any other file system, through pyarrow: s3, gs, abfs, hdfs, and what fsspec knows.

Object stores show an object when its upload is complete, so a write needs no temporary name there.
Credentials come from the environment of every process, never from a location.
"""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs as arrow

from corp_ray.errors import ConfigError, StorageError

ATTEMPTS = (
    5  # of a request: an S3 server that takes a connection and is silent fails in half a minute
)
_CHUNK_BYTES = 1 << 24
_PACKAGES = {
    "az": "adlfs",
    "gcs": "gcsfs",
    "oss": "ossfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "s3a": "s3fs",
}
_RENAMED = ("hdfs", "viewfs", "sftp", "ssh", "smb")  # a file being written is seen there
_SECRETS = re.compile(r"key|secret|token|password|credential|signature|^sig$", re.IGNORECASE)
_AWS_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_REASONS = {
    "NO_SUCH_BUCKET": "no such bucket",
    "ACCESS_DENIED": "permission denied",
    "INVALID_ACCESS_KEY_ID": "the storage does not know these credentials",
    "INVALID_CLIENT_TOKEN_ID": "the storage does not know these credentials",
    "SIGNATURE_DOES_NOT_MATCH": "the storage does not accept these credentials",
    "NETWORK_CONNECTION": "the storage does not answer",
}


def check_no_secrets(location: str, setting: str) -> None:
    """ConfigError when a URL holds credentials; it shows none of them."""
    parts = urlsplit(location)
    given = [key for key, _ in parse_qsl(parts.query) if _SECRETS.search(key)]
    user = any(":" in found for found in re.findall(r"//([^/@?]*)@", location))
    if given or user:
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ConfigError(
            f"{setting}={place!r}: holds credentials ({', '.join(given) or 'user and password'}); "
            "they belong in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def open_files(location: str, setting: str) -> tuple[RemoteFiles, str]:
    """The file system of a URL, and the URL's path on it. Errors: ConfigError."""
    check_no_secrets(location, setting)
    scheme = urlsplit(location).scheme
    try:
        made, path = arrow.FileSystem.from_uri(_with_region(location))
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise ConfigError(f"{setting}={location!r}: {_one_line(error)}") from error
        made, path = _through_fsspec(location, scheme, setting)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{setting}={location!r}: {reason(error)}") from error
    if isinstance(made, arrow.S3FileSystem):
        made = _impatient(made)
    return RemoteFiles(made, scheme in _RENAMED), path.rstrip("/")


def _with_region(location: str) -> str:
    """The region of the environment, where the URL names none: asking for it takes a request."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    query = urlsplit(location).query
    if not location.startswith("s3:") or not region or "region=" in query:
        return location
    return f"{location}{'&' if query else '?'}region={region}"


def _impatient(made: Any) -> Any:
    """The same with fewer attempts: as a URL makes it, it waits 100 s for a silent server.

    And with a small write as one request: opening late is what makes it so.
    """
    _, (options,) = made.__reduce__()
    patience = arrow.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    return arrow.S3FileSystem(**{**options, "allow_delayed_open": True}, retry_strategy=patience)


def _through_fsspec(location: str, scheme: str, setting: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError(f"{setting}={location!r}: needs fsspec; pip install fsspec") from error
    if scheme not in fsspec.available_protocols():
        raise ConfigError(
            f"{setting}={location!r}: unknown scheme {scheme!r}; expected a local path, s3://, "
            "gs://, or one that pyarrow or fsspec knows"
        )
    try:
        made, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        package = _PACKAGES.get(scheme) or (error.name or scheme)
        raise ConfigError(
            f"{setting}={location!r}: {scheme}:// needs a package; pip install {package}"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{setting}={location!r}: {_one_line(error)}") from error
    return arrow.PyFileSystem(arrow.FSSpecHandler(made)), path


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def reason(error: BaseException) -> str:
    """Why a storage refused, in words where its code is known, else in its own."""
    text = _one_line(error)
    if "AWS Error" in text and "NETWORK" not in text and not _has_aws_credentials():
        text = f"no AWS credentials in the environment; {text}"
    for code, words in _REASONS.items():
        if code in text:
            return f"{words} ({text})"
    return text


def _has_aws_credentials() -> bool:
    """Whether there is any sign of credentials; on a cloud's machine its role may give some too."""
    given = any(name in os.environ for name in _AWS_CREDENTIALS)
    return given or (Path.home() / ".aws/credentials").exists()


class RemoteFiles:
    """What a `Storage` asks of a file system, on a pyarrow one. Paths are its own.

    Errors: FileNotFoundError when reading what is absent, else StorageError.
    """

    def __init__(self, made: Any, renamed: bool = False):
        self._made, self._renamed = made, renamed

    @contextmanager
    def _errors(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"cannot {doing} {path}: {reason(error)}") from error

    def _kind(self, path: str) -> Any:
        with self._errors("look at", path):
            return self._made.get_file_info(path).type

    def read(self, path: str) -> bytes:
        if self._kind(path) != arrow.FileType.File:
            raise FileNotFoundError(path)
        with self._errors("read", path), self._made.open_input_file(path) as stream:
            return stream.read()

    def write(self, path: str, data: bytes) -> None:
        place = self._beside(path) if self._renamed else path
        with self._errors("write", path):
            with self._made.open_output_stream(place) as stream:
                stream.write(data)
            self._settle(place, path)

    def _settle(self, place: str, path: str) -> None:
        """Rename what was written to its place."""
        if place == path:
            return
        try:
            self._made.move(place, path)
        except OSError:
            # HDFS and SFTP take no place that is taken. For a moment there is neither.
            self._made.delete_file(path)
            self._made.move(place, path)

    @staticmethod
    def _beside(path: str) -> str:
        folder, name = posixpath.split(path)
        return f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"

    def append(self, path: str, line: bytes) -> None:
        """Write the file anew with a line more."""
        try:
            before = self.read(path)
        except FileNotFoundError:
            before = b""
        gap = b"" if not before or before.endswith(b"\n") else b"\n"
        self.write(path, before + gap + line + b"\n")

    def exists(self, path: str) -> bool:
        return self._kind(path) != arrow.FileType.NotFound

    def _below(self, path: str, recursive: bool = False) -> list[Any]:
        selector = arrow.FileSelector(path, allow_not_found=True, recursive=recursive)
        with self._errors("list", path):
            return self._made.get_file_info(selector)

    def entries(self, path: str) -> list[tuple[str, bool]]:
        """Name of everything directly in a folder, and whether it is a file."""
        return [(info.base_name, info.type == arrow.FileType.File) for info in self._below(path)]

    def make(self, path: str) -> None:
        if self._renamed:  # an object store has no folders to make
            with self._errors("write", path):
                self._made.create_dir(path, recursive=True)

    def remove(self, path: str) -> None:
        if self._kind(path) == arrow.FileType.File:
            with self._errors("remove", path):
                self._made.delete_file(path)

    def remove_tree(self, path: str) -> None:
        if self._kind(path) == arrow.FileType.Directory:
            with self._errors("remove", path):
                self._made.delete_dir(path)

    def rename(self, old: str, new: str) -> None:
        """Copy, then delete: an interruption leaves everything in its old place, or in both."""
        if self._kind(old) == arrow.FileType.File:
            with self._errors("write", new):
                self._made.move(old, new)
            return
        found = [i.path for i in self._below(old, recursive=True) if i.type == arrow.FileType.File]
        for path in sorted(found):
            place = new + path[len(old) :]
            self.make(posixpath.dirname(place))
            with self._errors("write", place):
                self._made.copy_file(path, place)
        self.remove_tree(old)

    def put(self, source: Path, path: str) -> None:
        """Copy a local file to its place, whole or not at all."""
        place = self._beside(path) if self._renamed else path
        with self._errors("write", path):
            arrow.copy_files(
                str(source),
                place,
                source_filesystem=arrow.LocalFileSystem(),
                destination_filesystem=self._made,
                chunk_size=_CHUNK_BYTES,
            )
            self._settle(place, path)

    def get(self, path: str, target: Path) -> None:
        with self._errors("read", path):
            arrow.copy_files(
                path,
                str(target),
                source_filesystem=self._made,
                destination_filesystem=arrow.LocalFileSystem(),
                chunk_size=_CHUNK_BYTES,
            )

    def why_not_writable(self, path: str) -> str:
        """Where and why a folder could not be written, or ""; a probe is written and removed."""
        parts = path.split("/")
        try:
            for end in range(2, len(parts) + 1):  # the first is the bucket
                place = "/".join(parts[:end])
                if self._kind(place) == arrow.FileType.File:
                    return f"{place} (Not a directory)"
            probe = f"{path}/.writable-{uuid.uuid4().hex}"
            self.make(path)
            self.write(probe, b"")
            self.remove(probe)
        except StorageError as error:
            return f"{path} ({str(error).partition(': ')[2]})"
        return ""
