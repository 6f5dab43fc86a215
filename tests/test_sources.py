"""Where rows come from: files, the folders that people have, and a Hugging Face hub. What cannot be
read, or fits twice, is one line that names the setting or the file."""

import gzip
import json
import os
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corp_ray.errors import TaskError
from corp_ray.settings import FAMILIES
from corp_ray.tasks import hub, kinds, make_task, published
from corp_ray.tasks.sources import Upstream, read_file, read_rows
from tests import hub_server, runs

ROWS = [{"question": "a\u2028b?", "answer": "1"}, {"question": "c?", "answer": "2"}]
UPSTREAM = Upstream("owner/rows", subset="main", split="train", folder="math-500")
DATA = runs.ROOT.parent / "shared/data"


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path, rows=ROWS):
    """A file of rows in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    else:
        text = json.dumps(rows, indent=1) if ".jsonl" not in path.name else lines(rows)
        content = text.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rows(path, **settings):
    return [row for _, row in read_rows(UPSTREAM, path=str(path), **settings)]


def refusal(path="", upstream=UPSTREAM, **settings):
    with pytest.raises(TaskError) as raised:
        list(read_rows(upstream, path=str(path), **settings))
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.parquet", "a.arrow", "a.jsonl.gz", "a.json.gz"]
)
def test_every_format_gives_the_same_rows_each_with_its_place(tmp_path, name):
    path = write(tmp_path / name)
    found = list(read_rows(UPSTREAM, path=str(path)))
    assert [row for _, row in found] == ROWS
    unit = "line" if ".jsonl" in name else "row"
    assert [place for place, _ in found] == [f"{path} {unit} {n}" for n in (1, 2)]


def test_a_json_file_may_hold_one_object_a_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + lines(ROWS), "utf-8")
    assert rows(path) == ROWS


def test_rows_of_a_parquet_file_with_many_groups_keep_their_order(tmp_path):
    many = [{"question": str(n), "answer": "1"} for n in range(10_000)]
    pq.write_table(pa.Table.from_pylist(many), tmp_path / "a.parquet", row_group_size=999)
    found = list(read_file(tmp_path / "a.parquet"))
    assert [row for _, row in found] == many
    assert found[-1][0].endswith("row 10000")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.json", b"[{\n]", ["a.json line 2", "not JSON"]),
        ("a.json", b"[" * 100_000, ["a.json", "not JSON"]),
        ("a.json", b'[{"a": 1}, 2]', ["a.json row 2", "object", "got 2"]),
        ("a.json", b'{\n"a": 1}', ["a.json line 1", "not JSON"]),
        ("a.jsonl", b"[" * 100_000, ["a.jsonl line 1", "not JSON"]),
        ("a.jsonl", b"\xff", ["a.jsonl", "UTF-8"]),
        ("a.jsonl.gz", b"text", ["a.jsonl.gz", "cannot be read"]),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], ["a.jsonl.gz", "cannot be read"]),
        ("a.parquet", b"text", ["a.parquet", "not a Parquet file"]),
        ("a.arrow", b"text", ["a.arrow", "not an Arrow stream"]),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    line = refusal(tmp_path / name)
    assert all(part in line for part in [str(tmp_path), *parts]), line


def test_a_parquet_file_cut_short_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS * 1000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 99 :])
    assert "a.parquet" in refusal(path)


@pytest.mark.parametrize("above", [False, True], ids=["the family's folder", "the one above"])
def test_the_split_decides_which_file_of_a_folder_is_read(tmp_path, above):
    write(tmp_path / "math-500/train.parquet", ROWS[:1])
    write(tmp_path / "math-500/test.parquet", ROWS[1:])
    write(tmp_path / "other/train.parquet", [{"question": "no", "answer": "no"}])
    path = tmp_path if above else tmp_path / "math-500"
    assert rows(path) == ROWS[:1]
    assert rows(path, split="test") == ROWS[1:]
    assert rows(path, split="test+train") == ROWS[::-1]
    assert "'validation'" in refusal(path, split="validation")


@pytest.mark.parametrize("folder", ["math500", "math-500", "MATH-500", "math-500_verl"])
def test_a_familys_folder_is_known_by_the_names_that_people_gave_it(tmp_path, folder):
    write(tmp_path / folder / "train.parquet")
    assert rows(tmp_path) == ROWS


def test_two_folders_or_files_that_fit_are_named_instead_of_choosing(tmp_path):
    write(tmp_path / "math500/train.parquet")
    write(tmp_path / "math-500/train.parquet")
    line = refusal(tmp_path)
    assert "math500" in line
    assert "math-500" in line
    write(tmp_path / "math500/train.jsonl")
    line = refusal(tmp_path / "math500")
    assert "train.parquet" in line
    assert "train.jsonl" in line
    assert "task.path" in line


def test_a_file_with_a_name_of_its_own_is_the_one_there_is(tmp_path):
    write(tmp_path / "math500/problems.json")
    assert rows(tmp_path) == rows(tmp_path / "math500") == ROWS
    assert "without task.split" in refusal(tmp_path, split="test")
    write(tmp_path / "math500/train.parquet", ROWS[:1])
    assert "task.split=train" in refusal(tmp_path)  # neither is better
    assert rows(tmp_path, split="train") == ROWS[:1]


def test_of_a_published_split_with_several_parts_a_folder_gives_what_it_has(tmp_path):
    upstream = Upstream("o/mbpp", split="train+validation+test", folder="mbpp")
    read = lambda **s: [r for _, r in read_rows(upstream, path=str(tmp_path), **s)]  # noqa: E731
    write(tmp_path / "mbpp/mbpp.jsonl")
    assert read() == ROWS  # once, not once a part
    (tmp_path / "mbpp/mbpp.jsonl").unlink()
    write(tmp_path / "mbpp/test.parquet", ROWS[1:])
    write(tmp_path / "mbpp/train.parquet", ROWS[:1])
    assert read() == ROWS
    assert "'validation'" in refusal(tmp_path, upstream, split="train+validation")


def test_shards_are_one_file_and_a_missing_one_is_noticed(tmp_path):
    write(tmp_path / "main/train-00001-of-00002.parquet", ROWS[1:])
    write(tmp_path / "main/test-00000-of-00001.parquet", ROWS)
    assert "1 of 2" in refusal(tmp_path)
    write(tmp_path / "main/train-00000-of-00002.parquet", ROWS[:1])
    assert rows(tmp_path) == rows(tmp_path, subset="main") == ROWS
    assert "'sane'" in refusal(tmp_path, subset="sane")


def test_what_save_to_disk_writes_is_read_without_the_package(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        "train": datasets.Dataset.from_list(ROWS[:1]),
        "test": datasets.Dataset.from_list(ROWS),
    }
    datasets.DatasetDict(parts).save_to_disk(
        tmp_path / "mbpp_full", num_shards={"train": 1, "test": 2}
    )
    upstream = Upstream("o/mbpp", folder="mbpp")
    found = list(read_rows(upstream, path=str(tmp_path), split="train+test"))
    assert [row for _, row in found] == [ROWS[0], *ROWS]
    assert "'dev'" in refusal(tmp_path, upstream, split="dev")
    alone = datasets.Dataset.from_list(ROWS, split="test")
    alone.save_to_disk(tmp_path / "alone")
    assert [row for _, row in read_rows(upstream, path=f"{tmp_path}/alone", split="test")] == ROWS
    assert "'train'" in refusal(tmp_path / "alone", upstream, split="train")
    (tmp_path / "mbpp_full/train/state.json").write_text("{}")
    assert "mbpp_full" in refusal(tmp_path, upstream, split="train")


def test_settings_that_contradict_each_other_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl")
    assert "task.dataset='o/d'" in refusal(path, dataset="o/d")
    assert "task.split='test'" in refusal(path, split="test")
    assert "task.subset='main'" in refusal(path, subset="main")
    assert "'train[:9]'" in refusal(tmp_path, split="train[:9]")
    assert "no such file" in refusal(tmp_path / "none.jsonl")
    assert "no file of rows" in refusal(write(tmp_path / "empty/notes.txt").parent)


@pytest.mark.parametrize("dataset", ["gsm8k", "a/b/c", "../b", "/tmp", "a/b@", "https://x/a/b"])
def test_what_is_no_dataset_id_is_refused_before_the_hub_is_asked(dataset):
    assert repr(dataset) in refusal(dataset=dataset)
    with pytest.raises(TaskError, match="id"):
        hub.pinned(dataset)


def test_a_folder_with_a_datasets_name_is_not_taken_for_it(tmp_path, monkeypatch):
    write(tmp_path / "owner/rows/train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert "task.path" in refusal()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "corp-ray[datasets]" in refusal()


def test_a_package_that_could_run_code_from_the_hub_is_refused(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    assert "too old" in refusal()


ASK = """
import json, sys
from corp_ray.errors import TaskError
from corp_ray.tasks import hub
from corp_ray.tasks.settings import portable
from corp_ray.tasks.sources import Upstream, read_rows

def answer(function, *arguments, **settings):
    try:
        found = function(*arguments, **settings)
        return found if isinstance(found, str) else [list(item) for item in found]
    except TaskError as error:
        return f"TaskError {error}"

upstream = Upstream("owner/rows", subset="main")
for name, settings in json.loads(sys.argv[1]):
    if name == "pinned":
        print(json.dumps(answer(hub.pinned, settings)))
    elif name == "portable":
        print(json.dumps(portable(settings)))
    else:
        print(json.dumps(answer(read_rows, upstream, **settings)))
"""


def ask(home, questions, **environment):
    """What a process of its own with its Hugging Face folder in `home` answers."""
    process = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        env={**os.environ, "HF_HOME": str(home), **environment},
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A hub with one data set of two splits: its address."""
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub") / "repository"
    write(folder / "main/train-00000-of-00001.parquet", ROWS)
    write(folder / "main/test-00000-of-00001.parquet", ROWS[:1])
    configuration = [{"split": split, "path": f"main/{split}-*"} for split in ("train", "test")]
    card = {"configs": [{"config_name": "main", "data_files": configuration}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    with hub_server.serving(folder, "owner/rows") as address:
        yield address


def test_a_dataset_is_read_from_a_hub_and_its_commit_is_known(served, tmp_path):
    commit = hub_server.COMMIT
    first = [
        ["pinned", "owner/rows"],
        ["rows", {}],
        ["rows", {"dataset": f"owner/rows@{commit}", "split": "test", "subset": "main"}],
        ["rows", {"split": "train+test"}],
        ["portable", {"kind": "countdown", "path": "", "dataset": "owner/rows"}],
    ]
    pinned, train, test, both, settings = ask(tmp_path / "home", first, HF_ENDPOINT=served)
    assert pinned == settings["dataset"] == f"owner/rows@{commit}"
    assert [row for _, row in train] == ROWS
    assert [row for _, row in test] == ROWS[:1]
    assert [row for _, row in both] == [*ROWS, ROWS[0]]
    assert train[1][0] == f"owner/rows@{commit[:12]} train row 2"
    # Without the hub: what was read before is on the disk, and nothing else is.
    other = "f" * 40
    later = [
        ["pinned", "owner/rows"],
        ["rows", {}],
        ["rows", {"dataset": f"owner/rows@{commit}", "split": "test", "subset": "main"}],
        ["rows", {"dataset": f"owner/rows@{other}"}],
        ["rows", {"dataset": "owner/rows@main"}],
        ["rows", {"dataset": "owner/more"}],
    ]
    found = ask(tmp_path / "home", later, HF_HUB_OFFLINE="1")
    assert found[:3] == ["owner/rows", train, test]
    assert f"holds {commit}" in found[3]
    assert "which commit 'main' is" in found[4]
    assert "TaskError task.dataset='owner/more'" in found[5]
    assert "\n" not in found[5]


def test_what_a_hub_does_not_have_is_one_line(served, tmp_path):
    questions = [
        ["pinned", "owner/none"],
        ["pinned", "owner/rows@v9"],
        ["rows", {"dataset": "owner/none"}],
        ["rows", {"dataset": "owner/rows@v9"}],
        ["rows", {"subset": "none"}],
        ["rows", {"split": "none"}],
    ]
    found = ask(tmp_path / "home", questions, HF_ENDPOINT=served)
    names = ["'owner/none'", "'v9'", "'owner/none'", "'v9'", "task.subset='none'", "'none'"]
    for line, name in zip(found, names, strict=True):
        assert line.startswith("TaskError task.dataset='owner/"), line
        assert name in line
        assert "\n" not in line


def test_real_rows_come_out_whole():
    if not DATA.is_dir():
        pytest.skip(f"no {DATA}")
    found = list(read_file(DATA / "mbpp.jsonl"))
    assert len(found) == 974
    assert {"text", "code", "test_list"} <= set(found[-1][1])
    assert len(make_task("rows", path=str(DATA / "gsm8k_test.jsonl")).examples()) == 400


@pytest.mark.parametrize("kind", sorted(set(FAMILIES) & set(kinds())))
def test_every_family_says_where_its_rows_are_published(kind):
    upstream = published(kind)
    assert re.fullmatch(r"[\w-]+/[\w.-]+", upstream.dataset)
    assert upstream.folder
    assert upstream.split
    with pytest.raises(TaskError, match="no-such-folder"):
        make_task(kind, path="no-such-folder").examples()


def test_other_kinds_have_no_published_rows():
    assert [published(kind) for kind in ("rows", "reasoning_gym", "python_file")] == [None] * 3
