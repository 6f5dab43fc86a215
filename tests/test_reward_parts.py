"""Parts of the reward table: merged in tiers while a run goes on, by several writers at once, with
crashes between any two operations; no row is lost, and none is there twice after opening."""

import logging
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

import pyarrow.parquet as pq
import pytest

from corp_ray import reward_parts, reward_table
from corp_ray.errors import RewardTableError
from corp_ray.reward_parts import RewardParts
from corp_ray.reward_rows import to_table
from corp_ray.reward_table import RewardTable
from corp_ray.storage import Storage
from corp_ray.table_summary import summarise
from tests.s3_server import CREDENTIALS, serving
from tests.test_reward_table import IDENTITY, by_id, evaluation, missing, on_disk, opened, parts


class Crash(BaseException):
    """The process ends here."""


class Counted(Storage):
    """A folder that counts what is done to it and ends the process before operation `last`."""

    def __new__(cls, folder, last=None):
        made = super().__new__(cls)
        made.done, made.last = Counter(), last
        return made

    def __init__(self, folder, last=None):
        local = Storage.open(folder)
        super().__init__(local.url, local._files, local._path)

    def _next(self, kind):
        if sum(self.done.values()) == self.last:
            raise Crash
        self.done[kind] += 1

    def write_bytes(self, name, data):
        self._next("write")
        super().write_bytes(name, data)

    def remove(self, name):
        self._next("remove")
        super().remove(name)


@pytest.fixture
def small_tiers(monkeypatch):
    monkeypatch.setattr(reward_parts, "FAN", 3)
    monkeypatch.setattr(reward_table, "COMPACT_FROM", 8)
    monkeypatch.setattr(reward_table, "COLUMN_ROWS", 8)


def test_a_row_is_rewritten_once_a_tier_and_parts_stay_few(tmp_path, small_tiers):
    folder = Counted(tmp_path)
    table = RewardTable(folder, IDENTITY)
    most = 0
    for i in range(81):
        table.append([evaluation(i)])
        most = max(most, len(parts(tmp_path)))
    assert (
        most <= 2 * 4 + 1
    )  # at most two parts in each of the tiers of 1, 3, 9 and 27 rows, and one
    assert len(parts(tmp_path)) == 1  # 3^4 rows
    assert folder.done["write"] == 81 + 27 + 9 + 3 + 1
    assert len(on_disk(tmp_path)) == 81
    assert by_id(opened(tmp_path).evaluations()) == [evaluation(i) for i in range(81)]


def test_large_parts_are_not_merged_any_more(tmp_path, small_tiers, monkeypatch):
    monkeypatch.setattr(reward_parts, "PART_BYTES", to_table([evaluation(0)], IDENTITY).nbytes * 10)
    table = opened(tmp_path)
    for i in range(81):
        table.append([evaluation(i)])
    assert len(parts(tmp_path)) == 9  # of nine rows each


def test_several_rows_at_once_go_to_the_tier_of_their_number(tmp_path, small_tiers):
    folder = Counted(tmp_path)
    table = RewardTable(folder, IDENTITY)
    for i in range(0, 27, 9):
        table.append([evaluation(n) for n in range(i, i + 9)])
    assert folder.done == {"write": 4, "remove": 3}


@pytest.mark.parametrize("last", range(0, 40, 3))
def test_a_crash_before_any_operation_loses_and_doubles_no_row(tmp_path, small_tiers, last):
    """Every row that `append` has returned for is there again, once, also after a second crash."""
    rows = [evaluation(i) for i in range(15)]
    acknowledged = []
    for again in range(3):
        with suppress(Crash):
            table = RewardTable(Counted(tmp_path, last + again), IDENTITY)
            for row in rows[: 5 * (again + 1)]:
                table.append([row])
                acknowledged.append(row.candidate.id)
    table = opened(tmp_path)
    held = [e.candidate.id for e in table.evaluations()]
    assert set(acknowledged) <= set(held)
    assert on_disk(tmp_path) == sorted(held)
    table.append(rows)
    assert by_id(opened(tmp_path).evaluations()) == rows


def test_opening_beside_a_writer_leaves_its_files_and_its_broken_ones_alone(tmp_path, caplog):
    for i in range(reward_table.COMPACT_FROM + 1):
        RewardParts(Storage.open(tmp_path)).write(to_table([evaluation(i)], IDENTITY))
    parts(tmp_path)[0].write_bytes(b"broken")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with caplog.at_level(logging.WARNING):
        assert len(opened(tmp_path, owner=False)) == reward_table.COMPACT_FROM
    assert parts(tmp_path)[0].name in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_refresh_takes_in_what_others_have_added_and_reads_nothing_twice(tmp_path, small_tiers):
    first, second = opened(tmp_path), opened(tmp_path, owner=False)
    assert first.refresh() == 0
    second.append([evaluation(i) for i in range(20)])
    second.append([evaluation(20)])
    assert missing(first, evaluation(20)) == ["r0c20"]
    assert first.refresh() == 21 and first.refresh() == 0
    assert first.append([evaluation(20)]) == []
    first.append([evaluation(21)])
    assert second.refresh() == 1
    assert by_id(first.evaluations()) == by_id(second.evaluations())
    other = opened(tmp_path, owner=False)
    for i in range(22, 60):  # merged between two looks
        other.append([evaluation(i)])
    assert first.refresh() == 38
    assert by_id(first.evaluations()) == [evaluation(i) for i in range(60)]


def test_writers_beside_each_other_on_an_object_store(small_tiers, monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with serving() as server:
        folder = Storage.open(server.url("runs/run/rewards"))
        first = RewardTable(folder, IDENTITY)
        second = RewardTable(folder, IDENTITY, owner=False)
        for i in range(12):
            (first, second)[i % 2].append([evaluation(i)])
        assert first.refresh() == 6 and second.refresh() == 6
        folder.write_bytes("part-broken.parquet", b"broken")
        again = RewardTable(folder, IDENTITY)
        assert by_id(again.evaluations()) == [evaluation(i) for i in range(12)]
        assert len(folder.names("*.parquet")) == 4  # of each writer 3 + 3 rows
        assert (folder / "set_aside").names() == ["part-broken.parquet"]
        second.append([evaluation(i) for i in range(12, 21)])
        assert again.refresh() == 9


class Shifting(Storage):
    """A folder whose listing is taken just before a writer in it merges its parts."""

    def __init__(self, folder, writer):
        local = Storage.open(folder)
        super().__init__(local.url, local._files, local._path)
        self.writer = writer

    def names(self, pattern="*"):
        listed = super().names(pattern)
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.compact()
        return listed


def test_parts_that_a_writer_merges_between_listing_and_reading_are_found_merged(
    tmp_path, small_tiers
):
    writer = RewardParts(Storage.open(tmp_path))
    rows = [evaluation(i) for i in range(5)]
    for row in rows:
        writer.write(to_table([row], IDENTITY))
    assert len(parts(tmp_path)) == 5
    table = RewardTable(Shifting(tmp_path, writer), IDENTITY, owner=False)
    assert len(parts(tmp_path)) == 1
    assert by_id(table.evaluations()) == rows


def test_opening_between_a_writers_merge_and_its_clearing_up_keeps_rows_that_it_removes_next(
    tmp_path, small_tiers
):
    """Both of the writer's copies are there; the holder may rely on neither, since it lives."""
    rows = [evaluation(i) for i in range(3)]
    writer = RewardTable(Counted(tmp_path, last=4), IDENTITY, owner=False)
    with suppress(Crash):  # three parts and their merged one, before the first removal
        for row in rows:
            writer.append([row])
    assert len(parts(tmp_path)) == 4
    merged = max(parts(tmp_path), key=lambda part: pq.read_metadata(part).num_rows)
    before = set(parts(tmp_path)) - {merged}
    assert by_id(opened(tmp_path).evaluations()) == rows
    for part in before:
        part.unlink(missing_ok=True)
    assert by_id(opened(tmp_path).evaluations()) == rows


class Busy(Storage):
    """A folder in which a writer adds a part with every listing."""

    def __init__(self, folder, writer):
        local = Storage.open(folder)
        super().__init__(local.url, local._files, local._path)
        self.writer, self.added = writer, 0

    def names(self, pattern="*"):
        self.writer.write(to_table([evaluation(self.added)], IDENTITY))
        self.added += 1
        return super().names(pattern)


def test_a_writer_that_never_rests_holds_up_no_reader(tmp_path):
    folder = Busy(tmp_path, RewardParts(Storage.open(tmp_path)))
    table = RewardTable(folder, IDENTITY, owner=False)
    assert len(table) == folder.added == 2
    table.refresh()
    assert len(table) == folder.added


def test_a_part_that_breaks_while_the_run_goes_on_is_an_error_that_names_it(tmp_path, small_tiers):
    table = opened(tmp_path)
    table.append([evaluation(0)])
    (part,) = parts(tmp_path)
    part.write_bytes(b"broken")
    table.append([evaluation(1)])
    with pytest.raises(RewardTableError, match=part.name):
        table.append([evaluation(2)])
    assert missing(opened(tmp_path), *(evaluation(i) for i in range(3))) == ["r0c0"]


def fill(folder, numbers, ready):
    """A writer of its own: appends one row after another, with small tiers."""
    reward_parts.FAN = 3
    table = RewardTable(Storage.open(folder), IDENTITY, owner=False)
    ready.wait()
    for number in numbers:
        table.append([evaluation(number)])
        if number % 10 == 0:
            table.refresh()


def write_merge_read(folder):
    """Threads of this process before and after a table was filled, merged, read and counted."""
    before = len(os.listdir("/proc/self/task"))
    fill(folder, range(30), multiprocessing.Barrier(1))
    assert len(opened(folder)) == 30
    assert summarise(Storage.open(folder)).rows
    return before, len(os.listdir("/proc/self/task"))


def test_arrow_starts_no_threads_of_its_own(tmp_path):
    """They can abort a process at its end, after a run that went well (apache/arrow 34314)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        before, after = process.submit(write_merge_read, tmp_path).result()
    assert after == before


@pytest.mark.parametrize("taken_over", [False, True], ids=["beside", "taken over"])
def test_writers_at_work_at_once_lose_no_row_while_others_merge_and_read(
    tmp_path, small_tiers, taken_over
):
    """Three processes append; this one appends too, and reads, or takes their parts over again
    and again as if they were gone. Two of the writers score the same candidates."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    shares = [range(0, 60), range(40, 100), range(300, 350)]
    writers = [context.Process(target=fill, args=(str(tmp_path), n, ready)) for n in shares]
    for writer in writers:
        writer.start()
    table = opened(tmp_path)
    ready.wait()
    seen, number = 0, 1000
    while any(writer.is_alive() for writer in writers):
        if taken_over:
            table = opened(tmp_path)
        table.append([evaluation(number)])
        number += 1
        table.refresh()
        assert len(table) >= seen
        seen = len(table)
        time.sleep(0.01)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    expected = sorted({*range(0, 100), *range(300, 350), *range(1000, number)})
    table.refresh()
    assert len(table) == len(expected)
    assert by_id(opened(tmp_path).evaluations()) == [evaluation(n) for n in expected]
    assert on_disk(tmp_path) == sorted(f"r0c{n}" for n in expected)
    assert all(pq.read_metadata(part).num_rows for part in parts(tmp_path))
