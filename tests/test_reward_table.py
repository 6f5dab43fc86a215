"""The reward table: what was appended is there after reopening, exactly; broken parts are set aside
and scored again; other identities are refused; a full disk and a crash lose no row."""

import logging
import resource
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corp_ray.errors import RewardTableError
from corp_ray.files import DiskFullError
from corp_ray.records import GRADED, OUTCOMES, VERIFIER_ERROR, Candidate, Evaluation
from corp_ray.reward_table import COMPACT_FROM, SCHEMA, Identity, RewardTable, error_share
from corp_ray.storage import Storage

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


def filled(folder, count=3):
    table = RewardTable(Storage.open(folder), IDENTITY)
    rows = [evaluation(i) for i in range(count)]
    for row in rows:
        table.append([row])
    return rows


def test_what_was_appended_is_there_after_reopening_bit_for_bit(folder):
    table = RewardTable(Storage.open(folder), IDENTITY)
    rows = [evaluation(i) for i in range(3)]
    rows[0] = replace(rows[0], rewards=(0.1 + 0.2, 5e-324, 1 / 3, 1.0, 0.0))
    rows += [evaluation(0, split="validation"), evaluation(1, center_digest="another")]
    rows += [replace(rows[0], candidate=Candidate("r0center", "center", 0))]
    rows += [replace(rows[0], candidate=Candidate("r0q", "proposal", 0, ((7, 0.1),), 0.5))]
    assert table.append(rows[:2]) == rows[:2]
    table.append(rows[2:])
    assert table.evaluations() == rows
    again = RewardTable(Storage.open(folder), IDENTITY)
    assert len(again) == len(rows)
    assert {e.candidate.id + e.split + e.center_digest: e for e in again.evaluations()} == {
        e.candidate.id + e.split + e.center_digest: e for e in rows
    }
    assert again.get("center", "support", rows[0].candidate) == rows[0]
    assert again.get("center", "validation", rows[1].candidate) is None


def test_missing_knows_candidates_by_center_split_and_direction(folder):
    rows = [evaluation(i) for i in range(4)]
    table = RewardTable(Storage.open(folder), IDENTITY)
    assert missing(table, *rows) == ["r0c0", "r0c1", "r0c2", "r0c3"]
    table.append([rows[2]])
    assert missing(table, *rows) == ["r0c0", "r0c1", "r0c3"]
    assert missing(RewardTable(Storage.open(folder), IDENTITY), *rows) == ["r0c0", "r0c1", "r0c3"]
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
    assert RewardTable(Storage.open(folder), IDENTITY).missing("center", "support", wanted) == [
        a,
        b,
    ]
    wanted = [a, b, replace(a, id="a again")]
    assert RewardTable(Storage.open(folder), IDENTITY).missing("center", "support", wanted) == [
        a,
        b,
    ]


def test_a_row_that_is_there_already_is_ignored(folder):
    rows = filled(folder)
    table = RewardTable(Storage.open(folder), IDENTITY)
    other = replace(rows[0], rewards=(0.0,) * 5)
    new = evaluation(9)
    assert table.append([other, new, rows[1]]) == [new]
    assert table.append([]) == []
    assert table.append([rows[2]]) == []
    assert len(parts(folder)) == 4
    for opened in (table, RewardTable(Storage.open(folder), IDENTITY)):
        assert by_id(opened.evaluations()) == [*rows, new]


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
        table = RewardTable(Storage.open(folder), IDENTITY)
    assert part.name in caplog.text
    assert (folder / "set_aside" / part.name).read_bytes() == spoilt
    assert not part.exists()
    assert missing(table, *rows) == ["r0c1"]
    assert table.append(rows) == [rows[1]]
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows


def test_leftovers_of_a_killed_writer_are_removed_and_other_files_left(folder):
    rows = filled(folder)
    (folder / f".{parts(folder)[0].name}.123.tmp").write_bytes(b"half a part")
    (folder / "notes.txt").write_text("mine")
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows
    assert sorted(p.suffix for p in folder.iterdir()) == [".parquet"] * 3 + [".txt"]


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
        RewardTable(Storage.open(folder), replace(IDENTITY, **change))
    assert f"{field} of r0c" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows


def test_a_split_that_holds_no_row_may_change(folder):
    rows = filled(folder)
    changed = replace(IDENTITY, split_digests={"support": "s1", "validation": "v2"})
    assert by_id(RewardTable(Storage.open(folder), changed).evaluations()) == rows


def test_a_row_of_another_engine_is_refused_before_it_is_written(folder):
    table = RewardTable(Storage.open(folder), IDENTITY)
    with pytest.raises(RewardTableError, match="engine: 'other'"):
        table.append([evaluation(0), evaluation(1, engine="other")])
    assert len(table) == 0
    assert list(folder.iterdir()) == []


def test_opening_many_parts_makes_one_of_them_and_keeps_every_row(folder):
    rows = filled(folder, COMPACT_FROM - 1)
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows
    assert len(parts(folder)) == COMPACT_FROM - 1
    rows += [evaluation(1000)]
    RewardTable(Storage.open(folder), IDENTITY).append(rows[-1:])
    for _ in range(2):
        assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows
        assert len(list(folder.iterdir())) == 1


def test_a_crash_between_compaction_and_clearing_up_loses_and_doubles_nothing(folder, tmp_path):
    rows = filled(folder, COMPACT_FROM)
    shutil.copytree(folder, tmp_path / "before")
    RewardTable(Storage.open(folder), IDENTITY)
    (compacted,) = parts(folder)
    for kept in (COMPACT_FROM, COMPACT_FROM // 2):
        for part in parts(tmp_path / "before")[:kept]:
            shutil.copy(part, folder)
        table = RewardTable(Storage.open(folder), IDENTITY)
        assert by_id(table.evaluations()) == rows
        assert missing(table, *rows) == []
    RewardTable(Storage.open(folder), IDENTITY).append([evaluation(1000)])
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == [
        *rows,
        evaluation(1000),
    ]
    assert not compacted.exists()


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
    table = RewardTable(Storage.open(folder), IDENTITY)
    rows = [evaluation(i, examples=2000) for i in range(4)]
    table.append(rows[:2])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with full(folder):
        with pytest.raises(DiskFullError) as raised:
            table.append(rows[2:])
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows[:2]
    assert "disk full" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert missing(table, *rows) == ["r0c2", "r0c3"]
    assert table.append(rows) == rows[2:]
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows


def test_a_full_disk_while_compacting_keeps_every_part(full_disk):
    folder, full = full_disk
    rows = filled(folder, COMPACT_FROM)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with full(folder), pytest.raises(DiskFullError):
        RewardTable(Storage.open(folder), IDENTITY)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert by_id(RewardTable(Storage.open(folder), IDENTITY).evaluations()) == rows
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
