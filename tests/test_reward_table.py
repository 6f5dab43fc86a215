"""The reward table: what was appended is there after reopening, exactly; broken parts are set aside
and scored again; other identities are refused; a full disk and a crash lose no row. Tiers and
several writers: test_reward_parts.py."""

import logging
import os
import resource
import shutil
import subprocess
import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corp_ray import reward_table
from corp_ray.errors import RewardTableError
from corp_ray.files import DiskFullError
from corp_ray.records import GRADED, OUTCOMES, VERIFIER_ERROR, Candidate, Evaluation
from corp_ray.reward_parts import LEFTOVER_S, RewardParts
from corp_ray.reward_rows import SCHEMA, Identity, to_table
from corp_ray.reward_table import COMPACT_FROM, RewardTable, error_share
from corp_ray.storage import Storage
from tests.bench import tables

IDENTITY = Identity(
    split_digests={"support": "s1", "validation": "v1"},
    decoding_digest="d1",
    task_version="t1",
    engine="fake bfloat16",
)


def evaluation(number, *, split="support", examples=5, **changes):
    """A row like no other: amplitudes and rewards are full float64 numbers."""
    rng = np.random.default_rng(number)
    a, b = rng.normal(size=2).tolist()
    terms = ((number, a), (2**63 - 1 - number, b))
    candidate = Candidate(f"r0c{number}", "candidate", 0, terms, sigma=float(rng.random()))
    made = Evaluation(
        candidate=candidate,
        center_digest="center",
        split=split,
        rewards=tuple(rng.random(examples).tolist()),
        outcomes=tuple(OUTCOMES[i] for i in rng.integers(0, 3, examples)),
        generated_tokens=int(rng.integers(1 << 40)),
        seconds=float(rng.random()),
        engine=IDENTITY.engine,
    )
    return replace(made, **changes)


def opened(folder, identity=IDENTITY, **options):
    return RewardTable(Storage.open(folder), identity, **options)


def by_id(evaluations):
    return sorted(evaluations, key=lambda e: (int(e.candidate.id[3:]), e.split))


def parts(folder):
    return sorted(folder.glob("*.parquet"))


def missing(table, *evaluations):
    return [c.id for c in table.missing("center", "support", [e.candidate for e in evaluations])]


@pytest.fixture
def folder(tmp_path):
    """Reward folders may lie below a name that looks like a partition."""
    return tmp_path / "round=3" / "rewards"


def scattered(folder, count):
    """Rows in one part each, of as many writers that are gone."""
    Storage.open(folder).make()
    rows = [evaluation(i) for i in range(count)]
    for row in rows:
        RewardParts(Storage.open(folder)).write(to_table([row], IDENTITY))
    return rows


def on_disk(folder):
    """Candidate ids of all rows in all parts, duplicates included."""
    tables = [pq.read_table(part) for part in parts(folder)]
    return sorted(name for table in tables for name in table["candidate_id"].to_pylist())


def filled(folder, count=3):
    table = opened(folder)
    rows = [evaluation(i) for i in range(count)]
    for row in rows:
        table.append([row])
    return rows


def test_what_was_appended_is_there_after_reopening_bit_for_bit(folder):
    table = opened(folder)
    rows = [evaluation(i) for i in range(3)]
    rows[0] = replace(rows[0], rewards=(0.1 + 0.2, 5e-324, 1 / 3, 1.0, 0.0))
    rows += [evaluation(0, split="validation"), evaluation(1, center_digest="another")]
    rows += [replace(rows[0], candidate=Candidate("r0center", "center", 0))]
    rows += [replace(rows[0], candidate=Candidate("r0q", "proposal", 0, ((7, 0.1),), 0.5))]
    assert table.append(rows[:2]) == rows[:2]
    table.append(rows[2:])
    assert table.evaluations() == rows
    again = opened(folder)
    assert len(again) == len(rows)
    assert {e.candidate.id + e.split + e.center_digest: e for e in again.evaluations()} == {
        e.candidate.id + e.split + e.center_digest: e for e in rows
    }
    assert again.get("center", "support", rows[0].candidate) == rows[0]
    assert again.get("center", "validation", rows[1].candidate) is None


def test_missing_knows_candidates_by_center_split_and_direction(folder):
    rows = [evaluation(i) for i in range(4)]
    table = opened(folder)
    assert missing(table, *rows) == ["r0c0", "r0c1", "r0c2", "r0c3"]
    table.append([rows[2]])
    assert missing(table, *rows) == ["r0c0", "r0c1", "r0c3"]
    assert missing(opened(folder), *rows) == ["r0c0", "r0c1", "r0c3"]
    candidate = rows[2].candidate
    assert table.missing("center", "validation", [candidate]) == [candidate]
    assert table.missing("another", "support", [candidate]) == [candidate]
    assert table.missing("center", "support", [replace(candidate, id="same direction")]) == []
    halved = tuple((seed, amplitude / 2) for seed, amplitude in candidate.terms)
    proposal = replace(candidate, kind="proposal", terms=halved, step=2.0)
    assert table.missing("center", "support", [proposal]) == []
    assert table.missing("center", "support", [replace(proposal, step=1.0)]) != []


def test_missing_names_a_direction_once_under_its_first_name_in_order(folder):
    a, b = evaluation(0).candidate, evaluation(1).candidate
    wanted = [a, b, replace(a, id="a again"), replace(b, id="b again")]
    assert opened(folder).missing("center", "support", wanted) == [a, b]
    wanted = [a, b, replace(a, id="a again")]
    assert opened(folder).missing("center", "support", wanted) == [a, b]


def test_a_row_that_is_there_already_is_ignored(folder):
    rows = filled(folder)
    table = opened(folder)
    other = replace(rows[0], rewards=(0.0,) * 5)
    new = evaluation(9)
    assert table.append([other, new, rows[1]]) == [new]
    assert table.append([]) == []
    assert table.append([rows[2]]) == []
    assert len(parts(folder)) == 4
    for found in (table, opened(folder)):
        assert by_id(found.evaluations()) == [*rows, new]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def foreign(path):
    pq.write_table(pa.table({"candidate_id": ["r0c1"]}), path)


def of_another_version(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"format": b"table 0"}), path)


def with_another_direction(path):
    records = pq.read_table(path).to_pylist()
    records[0]["amplitudes"][0] *= 2
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), path)


def with_fewer_rewards(path):
    records = pq.read_table(path).to_pylist()
    records[0]["rewards"].pop()
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), path)


@pytest.mark.parametrize(
    "spoil",
    [truncated, emptied, foreign, of_another_version, with_another_direction, with_fewer_rewards],
)
def test_a_spoilt_part_is_named_set_aside_and_scored_again(folder, caplog, spoil):
    rows = filled(folder)
    (part,) = [p for p in parts(folder) if pq.read_table(p)["candidate_id"].to_pylist() == ["r0c1"]]
    spoil(part)
    spoilt = part.read_bytes()
    with caplog.at_level(logging.WARNING):
        table = opened(folder)
    assert part.name in caplog.text
    assert (folder / "set_aside" / part.name).read_bytes() == spoilt
    assert not part.exists()
    assert missing(table, *rows) == ["r0c1"]
    assert table.append(rows) == [rows[1]]
    assert by_id(opened(folder).evaluations()) == rows


def test_leftovers_of_a_killed_writer_are_removed_and_other_files_left(folder):
    rows = filled(folder)
    killed, alive = (folder / f".part-{n}.parquet.{n}.tmp" for n in (123, 124))
    for path in (killed, alive):
        path.write_bytes(b"half a part")
    os.utime(killed, (time.time() - LEFTOVER_S - 60,) * 2)
    (folder / "notes.txt").write_text("mine")
    assert by_id(opened(folder).evaluations()) == rows
    assert sorted(p.suffix for p in folder.iterdir()) == [".parquet"] * 3 + [".tmp", ".txt"]
    assert alive.exists()


CHANGES = {
    "engine": {"engine": "fake float32"},
    "split_digest": {"split_digests": {"support": "s2", "validation": "v1"}},
    "decoding_digest": {"decoding_digest": "d2"},
    "task_version": {"task_version": "t2"},
    "noise_version": {"noise_version": 2},
}


@pytest.mark.parametrize(("field", "change"), CHANGES.items(), ids=CHANGES)
def test_rows_of_another_identity_are_refused_by_the_name_of_what_differs(folder, field, change):
    rows = filled(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RewardTableError) as raised:
        opened(folder, replace(IDENTITY, **change))
    assert f"{field} of r0c" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert by_id(opened(folder).evaluations()) == rows


def test_a_split_that_holds_no_row_may_change(folder):
    rows = filled(folder)
    changed = replace(IDENTITY, split_digests={"support": "s1", "validation": "v2"})
    assert by_id(opened(folder, changed).evaluations()) == rows


def test_a_row_of_another_engine_is_refused_before_it_is_written(folder):
    table = opened(folder)
    with pytest.raises(RewardTableError, match="engine: 'other'"):
        table.append([evaluation(0), evaluation(1, engine="other")])
    assert len(table) == 0
    assert list(folder.iterdir()) == []


def test_opening_many_parts_makes_one_of_them_and_keeps_every_row(folder):
    rows = scattered(folder, COMPACT_FROM - 1)
    assert by_id(opened(folder).evaluations()) == rows
    assert len(parts(folder)) == COMPACT_FROM - 1
    rows += [evaluation(1000)]
    opened(folder).append(rows[-1:])
    for _ in range(2):
        assert by_id(opened(folder).evaluations()) == rows
        assert len(list(folder.iterdir())) == 1
    assert len(on_disk(folder)) == len(rows)


def test_a_crash_between_merging_and_clearing_up_loses_and_doubles_nothing(folder, tmp_path):
    rows = scattered(folder, COMPACT_FROM)
    shutil.copytree(folder, tmp_path / "before")
    opened(folder)
    (merged,) = parts(folder)
    for kept in (COMPACT_FROM, COMPACT_FROM // 2, 1):
        for part in parts(tmp_path / "before")[:kept]:
            shutil.copy(part, folder)
        table = opened(folder)
        assert by_id(table.evaluations()) == rows
        assert missing(table, *rows) == []
        assert on_disk(folder) == sorted(row.candidate.id for row in rows)
    assert not merged.exists()
    opened(folder).append([evaluation(1000)])
    assert by_id(opened(folder).evaluations()) == [*rows, evaluation(1000)]


@contextmanager
def full_tmpfs(folder):
    """Two blocks left on a small file system of its own, so that a part begins and breaks off."""
    ballast = folder.parent / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(folder).free - 8192))
    yield
    ballast.unlink()


@contextmanager
def file_size_limit(folder):
    """No file of this process may grow past 1,000 bytes (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["tmpfs", "limit"])
def full_disk(request, tmp_path):
    """(a folder, a context in which nothing can be written there)"""
    if request.param == "limit":
        yield tmp_path / "rewards", file_size_limit
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield disk / "rewards", full_tmpfs
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_loses_no_row_and_work_goes_on_when_there_is_room(full_disk):
    folder, full = full_disk
    table = opened(folder)
    rows = [evaluation(i, examples=2000) for i in range(4)]
    table.append(rows[:2])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with full(folder):
        with pytest.raises(DiskFullError) as raised:
            table.append(rows[2:])
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        assert by_id(opened(folder).evaluations()) == rows[:2]
    assert "disk full" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert missing(table, *rows) == ["r0c2", "r0c3"]
    assert table.append(rows) == rows[2:]
    assert by_id(opened(folder).evaluations()) == rows


def test_a_full_disk_while_compacting_keeps_every_part(full_disk):
    folder, full = full_disk
    rows = scattered(folder, COMPACT_FROM)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with full(folder), pytest.raises(DiskFullError):
        opened(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert by_id(opened(folder).evaluations()) == rows
    assert len(parts(folder)) == 1


def test_a_full_disk_leaves_a_small_file_as_it_was(full_disk):
    folder, full = full_disk
    folder.mkdir()
    Storage.open(folder).write_json("0.json", {"round": 0})
    with full(folder):
        with pytest.raises(DiskFullError, match=r"0\.json"):
            Storage.open(folder).write_json("0.json", list(range(10_000)))
        assert [path.name for path in folder.iterdir()] == ["0.json"]
    assert (folder / "0.json").read_text() == '{\n "round": 0\n}\n'


def test_the_share_of_failed_gradings_is_counted():
    assert (
        error_share(evaluation(0, outcomes=(VERIFIER_ERROR, GRADED, GRADED, VERIFIER_ERROR))) == 0.5
    )
    assert error_share(evaluation(0, outcomes=(GRADED,) * 5)) == 0.0


def test_bulk_answers_are_those_of_the_rows_in_the_order_asked(folder, monkeypatch):
    """Rows in columns and recent rows alike, of two splits with different numbers of examples."""
    monkeypatch.setattr(reward_table, "COLUMN_ROWS", 4)
    rows = [evaluation(i) for i in range(11)]
    table = opened(folder)
    for row in rows[:6]:
        table.append(
            [row, replace(evaluation(row.generated_tokens, examples=3), split="validation")]
        )
    table.append(rows[6:])
    asked = [rows[i].candidate for i in (9, 0, 3, 3, 10, 7)]
    expected = [rows[i] for i in (9, 0, 3, 3, 10, 7)]
    for found in (table, opened(folder)):
        means = found.means("center", "support", asked)
        assert means.dtype == np.float64
        assert means.tolist() == [row.mean for row in expected]
        rewards = found.rewards("center", "support", asked)
        assert rewards.tolist() == [list(row.rewards) for row in expected]
        assert found.means("center", "support", []).shape == (0,)
        assert [
            e for e in found.evaluations() if e.split == "support"
        ] == rows or found is not table
        assert by_id(e for e in found.evaluations() if e.split == "support") == rows
        assert found.get("center", "support", rows[0].candidate) == rows[0]
    for ask in (table.means, table.rewards):
        with pytest.raises(KeyError, match="r0c77 has no row on support"):
            ask("center", "support", [rows[0].candidate, evaluation(77).candidate])
        with pytest.raises(KeyError, match="r0c0 has no row on gate"):
            ask("center", "gate", [rows[0].candidate])


def test_a_mean_that_is_not_that_of_the_rewards_is_set_aside(folder, caplog):
    rows = filled(folder)
    (part,) = [p for p in parts(folder) if pq.read_table(p)["candidate_id"].to_pylist() == ["r0c1"]]
    records = pq.read_table(part).to_pylist()
    records[0]["mean_reward"] += 1e-6
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), part)
    assert missing(opened(folder), *rows) == ["r0c1"]
    assert "mean reward of r0c1" in caplog.text


def test_format_shares_come_back_and_a_row_has_all_or_none(folder, caplog):
    judged = evaluation(1, formats=(1.0, 0.0, 0.25, float("nan"), 1.0))
    opened(folder).append([evaluation(0), judged])
    table = opened(folder)
    none, found = by_id(table.evaluations())
    assert none.formats == ()
    assert found.formats[:3] == (1.0, 0.0, 0.25) and np.isnan(found.formats[3])
    assert found.rewards == judged.rewards
    (part,) = parts(folder)
    records = pq.read_table(part).to_pylist()
    records[1]["formats"] = [1.0]
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), part)
    opened(folder)
    assert "formats of r0c1 are incomplete" in caplog.text


def test_rows_from_before_there_were_formats_are_read(folder):
    opened(folder).append([evaluation(0), evaluation(1)])
    (part,) = parts(folder)
    old = pq.read_table(part).drop_columns(["formats"])
    pq.write_table(old, part)
    table = opened(folder)
    table.append([evaluation(2, formats=(1.0,) * 5)])
    assert [len(e.formats) for e in by_id(opened(folder).evaluations())] == [0, 0, 5]


def test_rows_take_little_more_memory_than_their_numbers(folder):
    """20,000 x 200 rewards and outcomes are 36 MB; as Python numbers they would be 160 MB."""
    tables.write_table(folder, 20_000, 200, right_or_wrong=False)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    table = RewardTable(Storage.open(folder), tables.IDENTITY)
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert len(table) == 20_000
    assert held < 2 * 36e6


def test_rows_of_another_run_are_copied_for_support_alone_and_the_other_is_left(tmp_path, caplog):
    other, mine = tmp_path / "other", tmp_path / "mine"
    rows = scattered(other, 5)
    opened(other).append([evaluation(7, split="validation"), evaluation(8, center_digest="later")])
    spoilt = next(part for part in parts(other) if pq.read_table(part).num_rows == 1)
    (lost,) = pq.read_table(spoilt)["candidate_id"].to_pylist()
    truncated(spoilt)
    before = {path: path.read_bytes() for path in other.iterdir()}
    table = opened(mine)
    table.append(rows[:1])
    wanted = sorted({row.candidate.id for row in rows} - {lost} | {"r0c0", "r0c8"})
    assert table.read_from(Storage.open(other)) == len(wanted) - 1
    assert table.read_from(Storage.open(other)) == 0
    assert spoilt.name in caplog.text
    assert {path: path.read_bytes() for path in other.iterdir()} == before
    for found in (table, opened(mine)):
        assert sorted(e.candidate.id for e in found.evaluations()) == wanted
        assert {e.split for e in found.evaluations()} == {"support"}
    assert on_disk(mine) == wanted


def test_support_rows_of_another_identity_are_refused_and_other_splits_are_not_asked(tmp_path):
    rows = scattered(tmp_path / "other", 2)
    opened(tmp_path / "other").append([evaluation(7, split="validation")])
    held_out = replace(IDENTITY, split_digests={"support": "s1", "validation": "another"})
    assert opened(tmp_path / "a", held_out).read_from(Storage.open(tmp_path / "other")) == len(rows)
    changed = replace(IDENTITY, task_version="t2")
    with pytest.raises(RewardTableError, match=r"other/part.*task_version of r0c"):
        opened(tmp_path / "b", changed).read_from(Storage.open(tmp_path / "other"))
    assert not parts(tmp_path / "b")


def test_texts_of_held_out_splits_survive_and_must_be_whole(folder, caplog):
    texts = ("4", "", "vier\n\u00e9", '"', "\\boxed{5}")
    identity = replace(IDENTITY, split_digests={"support": "s1", "test": "t1"})
    opened(folder, identity).append([evaluation(1, split="test", texts=texts), evaluation(2)])
    kept, none = by_id(opened(folder, identity).evaluations())
    assert kept.texts == texts and none.texts == ()
    (part,) = parts(folder)
    records = pq.read_table(part).to_pylist()
    records[0]["texts"] = ["4"]
    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), part)
    assert not len(opened(folder, identity))
    assert "texts of r0c1 are incomplete" in caplog.text


def test_rows_from_before_texts_were_kept_are_read(folder):
    opened(folder).append([evaluation(1)])
    (part,) = parts(folder)
    pq.write_table(pq.read_table(part).drop_columns(["texts"]), part)
    assert [e.texts for e in opened(folder).evaluations()] == [()]
