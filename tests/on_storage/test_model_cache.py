"""Models from a storage on a node's disk: fetched once by whoever asks first, whole or not at all,
kept while used, few kept longer."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from corp_ray import model_cache
from corp_ray.errors import CheckpointError
from corp_ray.model_cache import KEPT, digested, local_folder
from corp_ray.storage import Storage
from tests import runs
from tests.s3_server import CREDENTIALS, serving

SIZE = 2_000_000
# Fetches a model, says where, and uses it until its standard input ends.
USER = """
import sys
from corp_ray.model_cache import local_folder
print("ready", flush=True)
sys.stdin.readline()
print(local_folder(sys.argv[1], sys.argv[2]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def s3():
    with serving() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for key, value in {**CREDENTIALS, "CORP_RAY_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(key, value)
    held = dict(model_cache._held)
    yield tmp_path / "cache"
    for folder in model_cache._held.keys() - held.keys():
        os.close(model_cache._held.pop(folder))


def forget(folder):
    """As when the process that used a folder ends."""
    os.close(model_cache._held.pop(folder))


def uploaded(s3, tmp_path, name):
    source = tmp_path / f"source-{name}"
    source.mkdir()
    (source / "model.safetensors").write_bytes(name.encode()[:1] * SIZE)
    (source / "recipe.json").write_text("{}")
    url = s3.url(f"{tmp_path.name}/{name}")
    Storage.open(url).upload(source, "", "recipe.json")
    return url


def user(url, digest):
    process = subprocess.Popen(
        [sys.executable, "-c", USER, url, digest],
        cwd=runs.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def names(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_a_local_path_comes_back_as_it_is(tmp_path):
    assert local_folder(str(tmp_path / "no such folder"), "d" * 64) == tmp_path / "no such folder"


def test_actors_of_a_node_fetch_a_model_once_and_all_have_it(s3, cache, tmp_path):
    url = uploaded(s3, tmp_path, "a")
    users = [user(url, "d" * 64) for _ in range(3)]
    for process in users:
        go(process)
    folders = {process.stdout.readline().strip() for process in users}
    (folder,) = folders
    assert folder.startswith(str(cache))
    mine = local_folder(url, "d" * 64)
    assert str(mine) == folder
    assert (mine / "model.safetensors").read_bytes() == b"a" * SIZE
    assert names(cache) == [mine.name]
    first = (mine / "model.safetensors").stat().st_mtime_ns
    for process in users:
        process.communicate("")
    assert local_folder(url, "d" * 64) == mine
    assert (mine / "model.safetensors").stat().st_mtime_ns == first


@pytest.mark.timeout(120)
def test_who_saw_no_model_and_was_overtaken_shares_what_the_other_fetched(
    s3, cache, tmp_path, monkeypatch
):
    url = uploaded(s3, tmp_path, "a")
    others = []
    lock = model_cache._lock

    def overtaken(folder, how):
        if how & fcntl.LOCK_EX and not others:
            others.append(user(url, "d" * 64))
            go(others[0])
            assert others[0].stdout.readline().strip() == str(folder)
        return lock(folder, how)

    monkeypatch.setattr(model_cache, "_lock", overtaken)
    mine = local_folder(url, "d" * 64)
    assert others and others[0].poll() is None
    assert (mine / "model.safetensors").read_bytes() == b"a" * SIZE
    others[0].communicate("")


def test_a_fetch_that_is_killed_leaves_nothing_that_looks_like_a_model(s3, cache, tmp_path):
    url = uploaded(s3, tmp_path, "a")
    for delay_s in (0.0, 0.02, 0.05):
        process = user(url, "d" * 64)
        go(process)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for folder in cache.glob("d*"):
            if folder.is_dir():
                assert sorted(path.name for path in folder.iterdir()) == [
                    "model.safetensors",
                    "recipe.json",
                ]
                assert (folder / "model.safetensors").read_bytes() == b"a" * SIZE
    mine = local_folder(url, "d" * 64)
    assert (mine / "model.safetensors").read_bytes() == b"a" * SIZE
    assert names(cache) == [mine.name]


def test_what_nobody_uses_goes_and_what_somebody_uses_stays(s3, cache, tmp_path):
    used = uploaded(s3, tmp_path, "u")
    process = user(used, "u" * 64)
    go(process)
    kept = process.stdout.readline().strip()
    folders = []
    for number in range(KEPT + 2):
        url = uploaded(s3, tmp_path, f"{number}")
        folders.append(local_folder(url, f"{number}" * 64))
        forget(folders[-1])
        os.utime(folders[-1], (1_000_000 + number, 1_000_000 + number))
    last = local_folder(uploaded(s3, tmp_path, "z"), "f" * 64)
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {os.path.basename(kept), last.name, *(f.name for f in folders[-KEPT:])}
    assert {path.name.removesuffix(".lock") for path in cache.glob("*.lock")} == left
    process.communicate("")


def test_a_model_of_unknown_digest_is_fetched_once_for_digest_and_use(s3, cache, tmp_path):
    url = uploaded(s3, tmp_path, "a")

    def digest_of(folder):
        assert (folder / "recipe.json").exists()
        return "e" * 64

    assert digested(url, digest_of) == "e" * 64
    s3.client.delete_object(Bucket="bucket", Key=f"{tmp_path.name}/a/model.safetensors")
    mine = local_folder(url, "e" * 64)
    assert (mine / "model.safetensors").read_bytes() == b"a" * SIZE
    assert names(cache) == [mine.name]
    assert digested(url, digest_of) == "e" * 64
    assert names(cache) == [mine.name]


def test_an_incomplete_model_does_not_exist(s3, cache, tmp_path):
    url = uploaded(s3, tmp_path, "a")
    s3.client.delete_object(Bucket="bucket", Key=f"{tmp_path.name}/a/recipe.json")
    with pytest.raises(CheckpointError, match=r"no complete model folder there \(recipe\.json"):
        local_folder(url, "d" * 64)
    assert names(cache) == []
