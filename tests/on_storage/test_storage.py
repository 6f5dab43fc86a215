"""Storage: the same claims on the local disk, on a real S3 server, and where a file being written
is seen; no half file however a writer ends; refusals in one line without credentials."""

from __future__ import annotations

import json
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyarrow import fs

from corp_ray.errors import ConfigError, StorageError
from corp_ray.remote_files import RemoteFiles
from corp_ray.storage import Storage
from tests import runs
from tests.s3_server import CREDENTIALS, serving

# A writer that never stops: whole files are one letter, many times over.
WRITER = """
from corp_ray.storage import Storage
from tests.on_storage.test_storage import seen_while_written
from pathlib import Path
from itertools import cycle
place = seen_while_written({place!r}) if {kind!r} == "renaming" else Storage.open({place!r})
print("begin", flush=True)
for letter in cycle("abcdefgh"):
    data = letter.encode() * {size}
    place.write_bytes("file", data)
    place.append_line("lines", letter * 1000)
    {more}
"""
SIZE = 3_000_000


def seen_while_written(path):
    """A storage like HDFS or SFTP: a file is seen while it is written, and can be renamed."""
    return Storage(f"hdfs://node{path}", RemoteFiles(fs.LocalFileSystem(), renamed=True), str(path))


@pytest.fixture(scope="module")
def s3():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch):
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)


@pytest.fixture(params=["local", "s3", "renaming"])
def place(request, tmp_path):
    """(kind, a folder that is not there yet)"""
    if request.param == "s3":
        server = request.getfixturevalue("s3")
        return "s3", Storage.open(server.url(f"tests/{tmp_path.name}"))
    if request.param == "local":
        return "local", Storage.open(tmp_path / "folder")
    return "renaming", seen_while_written(tmp_path / "folder")


def tree(storage, prefix=""):
    """Every file below by its name, read back."""
    found = {prefix + name: storage.read_bytes(name) for name in storage.names()}
    for name in storage.folders():
        found |= tree(storage / name, f"{prefix}{name}/")
    return found


def folder_of(path, **files):
    for name, text in files.items():
        file = path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def test_what_is_written_is_there_and_what_is_not_is_absent(place):
    storage = place[1]
    assert (storage.names(), storage.folders(), storage.exists()) == ([], [], False)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("a.json")
    storage.make()
    storage.write_json("a.json", {"x": [1, 2]})
    storage.write_bytes("b", b"old")
    storage.write_bytes("b", b"new")
    (storage / "sub").make()
    (storage / "sub").write_text("c", "ü")
    assert storage.names() == ["a.json", "b"]
    assert storage.names("*.json") == ["a.json"]
    assert storage.folders() == ["sub"]
    assert storage.read_json("a.json") == {"x": [1, 2]}
    assert storage.read_bytes("b") == b"new"
    assert storage.exists("sub/c")
    assert (storage / "sub").read_text("c") == "ü"
    assert (storage / "sub").parent.url == storage.url
    assert (storage / "sub").name == "sub"
    storage.remove("b")
    storage.remove("b")
    assert storage.names() == ["a.json"]
    (storage / "sub").remove_tree()
    (storage / "sub").remove_tree()
    assert tree(storage) == {"a.json": b'{\n "x": [\n  1,\n  2\n ]\n}\n'}


def test_lines_are_appended_even_after_one_that_was_cut_short(place):
    storage = place[1]
    storage.make()
    storage.append_line("m.jsonl", {"a": 1})
    storage.write_bytes("m.jsonl", storage.read_bytes("m.jsonl") + b'{"a"')
    storage.append_line("m.jsonl", {"a": 2})
    assert storage.read_text("m.jsonl") == '{"a": 1}\n{"a"\n{"a": 2}\n'


def test_files_and_folders_move_whole(place):
    storage = place[1]
    (storage / "old/deep").make()
    (storage / "old").write_bytes("a", b"1")
    (storage / "old/deep").write_bytes("b", b"2")
    (storage / "new").make()
    storage.rename("old/a", "old/c")
    storage.rename("old", "new/place")
    assert tree(storage) == {"new/place/c": b"1", "new/place/deep/b": b"2"}


def test_an_upload_replaces_what_was_half_there_and_comes_back_equal(place, tmp_path):
    storage = place[1]
    source = folder_of(tmp_path / "source", a="1", recipe="{}", sub__b="2")
    (storage / "m").make()
    (storage / "m").write_bytes("stale", b"x")
    storage.upload(source, "m", "recipe")
    assert tree(storage / "m") == {"a": b"1", "recipe": b"{}", "sub/b": b"2"}
    storage.download("m", tmp_path / "back")
    assert (tmp_path / "back/sub/b").read_text() == "2"
    storage.download("m", tmp_path / "back")  # somebody else was first: left as it is
    with pytest.raises(FileNotFoundError):
        storage.download("nothing", tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "folder") == ["back", "source"]


def test_an_upload_cut_while_it_removes_what_was_there_does_not_look_complete(
    place, tmp_path, monkeypatch
):
    storage = place[1]
    source = folder_of(tmp_path / "source", a="1", recipe="{}")
    storage.make()
    storage.upload(source, "m", "recipe")

    def cut(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage._files, "remove_tree", cut)
    with pytest.raises(KeyboardInterrupt):
        storage.upload(source, "m", "recipe")
    assert (storage / "m").names() == ["a"]


def killed_writer(kind, place, more, after_s):
    code = WRITER.format(kind=kind, place=place, size=SIZE, more=more)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"begin\n", process.communicate()
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[1] == b""


def whole(data):
    return len(data) == SIZE and data == data[:1] * SIZE


def test_a_writer_killed_at_any_moment_leaves_no_half_file_in_sight(place, tmp_path):
    """Nor an upload that looks complete and is not."""
    kind, storage = place
    storage.make()
    letters = folder_of(tmp_path / "source", **{n: n * SIZE for n in "abc"}, z="{}")
    where = storage.url if kind != "renaming" else str(tmp_path / "folder")
    moments = random.Random(5)
    seen = 0
    for _ in range(5):
        more = f"place.upload(Path({str(letters)!r}), 'up', 'a')"
        killed_writer(kind, where, more, moments.uniform(0.02, 0.4))
        files = {name: storage.read_bytes(name) for name in storage.names()}
        seen += len(files)
        assert set(files) <= {"file", "lines"}
        assert whole(files.get("file", b"a" * SIZE))
        lines = files.get("lines", b"").splitlines()
        assert kind == "local" or all(len(json.loads(line)) == 1000 for line in lines)
        if (storage / "up").exists("a"):
            assert all(whole((storage / "up").read_bytes(name)) for name in "abc")
            assert (storage / "up").names() == ["a", "b", "c", "z"]
    assert seen


def test_a_storage_travels_as_its_url_and_without_credentials(s3, tmp_path):
    for location in (tmp_path, s3.url("runs")):
        storage = Storage.open(location) / "sub"
        sent = pickle.dumps(storage)
        assert pickle.loads(sent) == storage
        assert (pickle.loads(sent).local is None) == (storage.local is None)
        assert all(value.encode() not in sent for value in CREDENTIALS.values())
    assert (Storage.open(s3.url("runs")) / "a/b").url == s3.url("runs/a/b")


def test_local_locations_of_every_form_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in ("runs x", f"file://{tmp_path}/runs%20x", tmp_path / "runs x", "./runs x"):
        assert Storage.open(given).url == str(tmp_path / "runs x")
        assert Storage.open(given).local == tmp_path / "runs x"


def test_the_environment_gives_endpoint_and_region_too(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage = Storage.open("s3://bucket/environment")
    storage.write_bytes("a", b"1")
    assert s3.objects("environment") == {"environment/a": b"1"}


def test_what_fsspec_knows_is_a_storage(tmp_path):
    storage = Storage.open("memory://runs/here")
    storage.write_json("a.json", {})
    storage.upload(folder_of(tmp_path / "source", a="1", z="2"), "up", "z")
    assert tree(storage) == {"a.json": b"{}\n", "up/a": b"1", "up/z": b"2"}
    storage.check_writable()


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("s4://bucket/x", ["unknown scheme 's4'", "s3://, gs://"]),
        ("az://bucket/x", ["pip install adlfs"]),
        ("s3://bucket/x?foo=1&region=us-east-1", ["Unexpected query parameter", "'foo'"]),
        ("s3:///x", ["bucket"]),
        ("file:relative", ["file:///absolute/path"]),
        ("file://host/x", ["file:///absolute/path"]),
        ("s3://who:hush@bucket/x", ["holds credentials", "environment", "s3://bucket/x"]),
        ("s3://bucket/x?secret_key=hush", ["holds credentials (secret_key)", "environment"]),
        ("s3://bucket/x?endpoint_override=http://a:hush@h", ["holds credentials"]),
    ],
)
def test_a_location_that_cannot_be_used_is_named_without_its_credentials(location, parts):
    with pytest.raises(ConfigError) as raised:
        Storage.open(location)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("run.directory='")
    assert "hush" not in message
    for part in parts:
        assert part in message


def refusal(storage):
    with pytest.raises(ConfigError) as raised:
        storage.check_writable("run.directory='given'")
    message = str(raised.value)
    assert message.startswith("run.directory='given': cannot write in ")
    assert len(message.splitlines()) == 1
    assert all(value not in message for value in CREDENTIALS.values())
    return message


def test_a_storage_that_cannot_be_written_says_why(s3, tmp_path):
    assert "no such bucket" in refusal(Storage.open(s3.url("x", bucket="nowhere")))
    s3.client.put_object(Bucket="bucket", Key="taken", Body=b"1")
    assert "bucket/taken (Not a directory)" in refusal(Storage.open(s3.url("taken/run")))
    (tmp_path / "taken").write_text("")
    assert f"{tmp_path}/taken (Not a directory)" in refusal(Storage.open(tmp_path / "taken/run"))


def test_credentials_that_are_absent_or_wrong_are_told_apart_from_a_missing_bucket(monkeypatch):
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="1") as server:
        storage = Storage.open(server.url("x"))
        message = refusal(storage)
        assert "permission denied" in message
        assert "no AWS credentials" not in message
        with pytest.raises(StorageError, match="credentials"):
            storage.names()
        for key in CREDENTIALS:
            monkeypatch.delenv(key)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", "/nowhere")
        assert "no AWS credentials in the environment" in refusal(Storage.open(server.url("x")))


def test_a_writable_storage_is_left_without_a_file(s3, tmp_path):
    before = s3.objects()
    Storage.open(s3.url("fresh/run")).check_writable()
    Storage.open(tmp_path / "fresh/run").check_writable()
    assert s3.objects() == before
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_does_not_answer_ends_in_a_minute_and_is_no_missing_file():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        options = f"endpoint_override=http://127.0.0.1:{silent.getsockname()[1]}&region=us-east-1"
        storage = Storage.open(f"s3://bucket/x?{options}")
        begin = time.monotonic()
        assert "does not answer" in refusal(storage)
        assert time.monotonic() - begin < 60


def test_writers_of_one_process_number_do_not_take_each_others_temporary_file(tmp_path):
    """As containers on one mount have it: threads stand for them."""
    storage = Storage.open(tmp_path)

    def write(letter):
        for _ in range(100):
            storage.write_bytes("file", letter * 1000)

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"]))
    data = storage.read_bytes("file")
    assert data == data[:1] * 1000 and storage.names() == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
