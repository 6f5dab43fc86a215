"""Rows of a Hugging Face dataset, through the package `datasets`.

Its releases from 4.0 read data files only: no code from the hub is executed. A dataset is named
"id" or "id@revision"; `pinned` turns the first into the second, so that every process of a run
reads the same commit. Leaves out: streaming; the hub's cache is on each node's own disk.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corp_ray.errors import TaskError

log = logging.getLogger(__name__)

_INSTALL = "pip install 'corp-ray[datasets]'"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(dataset: str) -> str:
    """ "id@commit" of a dataset as the hub has it now; unchanged where the hub cannot be asked.

    Errors: TaskError for an id or a revision that the hub does not have.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name, revision = _parts(dataset)
    if _COMMIT.fullmatch(revision):
        return dataset
    _package()  # or else the hub would be asked in vain
    try:
        commit = HfApi().dataset_info(name, revision=revision or None, timeout=30).sha
    except RepositoryNotFoundError as error:  # also for one that is gated or private
        raise _refused(dataset, "no such data set on the hub, or no access to it") from error
    except RevisionNotFoundError as error:
        raise _refused(dataset, f"the data set has no revision {revision!r}") from error
    except Exception as error:  # noqa: BLE001 the client lets errors of its transport through
        log.warning("task.dataset=%r: the hub cannot be asked (%s)", dataset, _line(error))
        return dataset
    log.info("task.dataset=%r: commit %s", dataset, commit)
    return f"{name}@{commit}" if commit else dataset


def read_dataset(dataset: str, subset: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) for every row of a split; downloaded once a node, then from its cache.

    Errors: TaskError for a missing package, an id, subset or split that does not exist, a hub
    that cannot be reached, or a cache with another commit than the one asked for.
    """
    name, revision = _parts(dataset)
    if Path(name).exists():
        raise TaskError(f"task.dataset={dataset!r}: a folder here has this name; use task.path")
    package = _package()
    if revision and not _COMMIT.fullmatch(revision):
        revision = _parts(pinned(dataset))[1]
        if not _COMMIT.fullmatch(revision):
            # The cache does not know names of revisions and would hand out any that it has.
            raise _refused(dataset, f"cannot ask the hub which commit {revision!r} is")
    try:
        builder = package.load_dataset_builder(name, subset or None, revision=revision or None)
        commit = str(builder.hash or "")
        if _COMMIT.fullmatch(revision) and commit != revision:
            raise _refused(dataset, f"the hub cannot be asked, the cache here holds {commit}")
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
    except TaskError:
        raise
    except Exception as error:
        raise _refused(dataset, _line(error), subset, split) from error
    where = f"{name}@{commit[:12]} {split}" if commit else f"{name} {split}"
    for number, row in enumerate(rows, 1):
        yield f"{where} row {number}", row


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise TaskError(f"task.dataset: needs the package datasets: {_INSTALL}") from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        # Older ones can run code that they find in a data set's repository.
        raise TaskError(f"task.dataset: datasets {datasets.__version__} is too old: {_INSTALL}")
    datasets.disable_progress_bars()  # the run has a display of its own
    return datasets


def _parts(dataset: str) -> tuple[str, str]:
    name, _, revision = dataset.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or ("@" in dataset and not revision):
        raise TaskError(
            f"task.dataset={dataset!r}: expected a Hugging Face id as in 'openai/gsm8k', "
            "or id@revision"
        )
    return name, revision


def _refused(dataset: str, reason: str, subset: str = "", split: str = "") -> TaskError:
    chosen = "".join(
        f", task.{name}={value!r}"
        for name, value in (("subset", subset), ("split", split))
        if value
    )
    return TaskError(f"task.dataset={dataset!r}{chosen}: {reason}")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
