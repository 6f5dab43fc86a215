"""Where a family's rows come from: a file, a folder on disk, or a Hugging Face dataset.

A folder is the family's own (data/gsm8k) or the one above it (data), as users of RandOpt have
them (https://github.com/sunrainyg/RandOpt, data/README.md): files named after their split, or one
file with a name of its own; also what `Dataset.save_to_disk` writes. See docs/method.md,
"Rewards and splits".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corp_ray.errors import TaskError
from corp_ray.tasks import hub
from corp_ray.tasks.row_files import ENDINGS, Row, lacking, read_file

__all__ = ["Family", "Row", "Upstream", "lacking", "read_file", "read_rows"]

_SPLITS = ("train", "test", "validation", "valid", "val", "dev")
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)")


@dataclass(frozen=True)
class Upstream:
    """Where a family's rows are published: a Hugging Face dataset id, its subset and split, and
    the name of its folder in RandOpt's layout (data/NAME/...)."""

    dataset: str
    subset: str = ""
    split: str = "train"
    folder: str = ""


def read_rows(
    upstream: Upstream, *, path: str = "", dataset: str = "", subset: str = "", split: str = ""
) -> Iterator[tuple[str, Row]]:
    """(place, row) for every row; the place is fit for an error message.

    `path`: a file, taken whole, or a folder. Without it: the Hugging Face dataset `dataset`
    ("id" or "id@revision"; empty: the published one). `split` may join several with "+".
    Errors: TaskError naming the setting, or the file and line.
    """
    if not path:
        # A dataset of one's own is not cut up like the published one.
        published = not dataset or dataset.partition("@")[0] == upstream.dataset
        yield from hub.read_dataset(
            dataset or upstream.dataset,
            subset or (upstream.subset if published else ""),
            split or upstream.split,
        )
        return
    if dataset:
        raise TaskError(f"task.dataset={dataset!r}: not beside task.path={path!r}, name one")
    place = Path(path).expanduser()
    if place.is_dir():
        for file in _chosen(place, upstream, subset, split):
            yield from read_file(file)
        return
    if subset or split:
        name, value = ("split", split) if split else ("subset", subset)
        raise TaskError(f"task.{name}={value!r}: task.path={path!r} is a file and is taken whole")
    yield from read_file(place)


def _chosen(folder: Path, upstream: Upstream, subset: str, split: str) -> list[Path]:
    """The files of a folder in their order. A split that the user chose must be there whole, of
    the published one what is there."""
    home = _home(folder, upstream, subset)
    found: list[Path] = []
    for part in (split or upstream.split).split("+"):
        files = _files(home, part.strip(), stated=bool(split))
        if split and not files:
            raise _nothing(home, part.strip())
        found += [file for file in files if file not in found]
    if not found:
        raise _nothing(home, upstream.split)
    return found


def _files(home: Path, split: str, *, stated: bool) -> list[Path]:
    """The file of a split, or its shards in order; empty when there is none."""
    if not re.fullmatch(r"[\w.-]+", split):
        raise TaskError(f"task.split={split!r}: expected names joined by '+' for a folder")
    if (home / "dataset_dict.json").is_file() or (home / "state.json").is_file():
        return _saved(home, split)
    files = _rows(home)
    named = [p for p in files if _split_of(p) == split]
    fitting = named if stated else [*named, *(p for p in files if not _split_of(p))]
    shards = [_SHARD.fullmatch(p.name.partition(".")[0]) for p in fitting]
    if fitting and all(shards) and len({(s[1], s[2]) for s in shards if s}) == 1:
        wanted = int(shards[0][2]) if shards[0] else 0
        if len(fitting) != wanted:
            raise TaskError(
                f"task.path={str(home)!r}: {len(fitting)} of {wanted} shards of {split}"
            )
        return fitting
    if len(fitting) > 1:
        raise TaskError(
            f"task.path={str(home)!r}: {', '.join(p.name for p in fitting)} all fit "
            f"task.split={split!r}; name one of them in task.path"
            + ("" if stated or not named else f", or set task.split={split}")
        )
    return fitting


def _nothing(home: Path, split: str) -> TaskError:
    files = _rows(home)
    names = ", ".join(p.name for p in files) or "no file of rows"
    hint = "; a file without a split in its name is taken whole, without task.split"
    return TaskError(
        f"task.path={str(home)!r}: nothing for task.split={split!r} ({names})"
        + ("" if all(map(_split_of, files)) else hint)
    )


def _rows(home: Path) -> list[Path]:
    return sorted(p for p in home.iterdir() if p.is_file() and p.name.endswith(ENDINGS))


def _home(folder: Path, upstream: Upstream, subset: str) -> Path:
    """The folder with the files: the family's below `folder` or `folder` itself, and in it that
    of the subset or `data`, as repositories of data sets have them."""
    below = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    family = [p for p in below if upstream.folder and _plain(p.name) == _plain(upstream.folder)]
    if len(family) > 1:
        names = ", ".join(p.name for p in family)
        raise TaskError(f"task.path={str(folder)!r}: {names} all fit; name one of them")
    home = family[0] if family else folder
    if subset:
        if not (home / subset).is_dir():
            raise TaskError(f"task.subset={subset!r}: no such folder in {str(home)!r}")
        home = home / subset
    elif upstream.subset and (home / upstream.subset).is_dir():
        home = home / upstream.subset
    return home / "data" if not _rows(home) and (home / "data").is_dir() else home


def _saved(home: Path, split: str) -> list[Path]:
    """The Arrow files of a split that `save_to_disk` wrote; empty when it has no such split."""
    try:
        if (home / "dataset_dict.json").is_file():
            if split not in json.loads((home / "dataset_dict.json").read_text("utf-8"))["splits"]:
                return []
            home = home / split
        state = json.loads((home / "state.json").read_text("utf-8"))
        if state.get("_split") not in (None, split):  # one split that was saved alone
            return []
        return [home / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(f"task.path={str(home)!r}: a broken saved data set ({error!r})") from error


def _plain(name: str) -> str:
    """ "math-500" and "math500" are one folder, and so are "mbpp" and "mbpp_full"."""
    return name.lower().partition("_")[0].replace("-", "")


def _split_of(path: Path) -> str:
    """The split that a file is named after, or ""."""
    first = re.split(r"[-_.]", path.name)[0].lower()
    return first if first in _SPLITS else ""


class Family:
    """What tasks with published rows share: where they are read, and the system prompt.

    `upstream` is where they are published. Arguments as of `read_rows`.
    """

    upstream = Upstream("")

    def __init__(
        self,
        *,
        path: str = "",
        dataset: str = "",
        subset: str = "",
        split: str = "",
        system_prompt: str = "",
    ):
        self._source = {"path": path, "dataset": dataset, "subset": subset, "split": split}
        self._system_prompt = system_prompt

    def _rows(self) -> Iterator[tuple[str, Row]]:
        """(place, row) for every row. Errors: as `read_rows`."""
        return read_rows(self.upstream, **self._source)
