"""Grader actors beside real scorer actors: they overlap the engine, and outlive what happens to them."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from corp_ray import checkpoint
from corp_ray.actors import ScorerActor
from corp_ray.engines import EngineSettings
from corp_ray.errors import TaskError
from corp_ray.population import isotropic
from corp_ray.records import GRADED, Center, Work
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import NAMES, make_splits
from tests import runs
from tests.bad_graders import unbearable

EXAMPLES = 3


@dataclass
class Scored:
    """A scorer whose answers are graded once the file `go` is there."""

    actor: Any
    works: list[Work]
    go: Path
    journal: Path

    def generated(self) -> int:
        return len(self.journal.read_text().splitlines()) if self.journal.exists() else 0

    def graders(self) -> list[int]:
        noted = Path(f"{self.go}.graded")
        return [int(line) for line in noted.read_text().split()] if noted.exists() else []


@pytest.fixture
def scored(tmp_path, ray_address):
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    model, go, journal = (
        runs.model_folder(tmp_path / "model"),
        tmp_path / "go",
        tmp_path / "journal",
    )
    path = tmp_path / "task.jsonl"
    rows = [{"question": f"say {n}", "answer": str(go)} for n in range(4 * EXAMPLES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"kind": "rows", "path": str(path), "grader": "tests.bad_graders:patient"}
    task, sizes = make_task(**settings), dict.fromkeys(NAMES, EXAMPLES)
    digests = {name: split.digest for name, split in make_splits(task, sizes, 0).items()}
    kind, options = "tests.fake_engine:FakeEngine", {"journal": str(journal)}
    engine = EngineSettings(kind, "bfloat16", "cpu", 1, "auto", 8, 8, (".*",), (), options=options)
    center = Center(str(model), checkpoint.folder_digest(model, "bfloat16"))
    actor = ScorerActor.options(name="corp_ray/run/scorer/1").remote(
        engine, TaskSettings(settings, sizes, 0, task.version, digests, processes=1, limit_s=60.0)
    )
    ready = ray.get(actor.ready.remote(center))
    assert ready.error is None
    candidates = isotropic(0, 0, 2, (0.01, 0.02))
    works = [Work(center, "support", (candidate,)) for candidate in candidates]
    yield Scored(actor, works, go, journal)
    ray.kill(actor)
    ray.shutdown()


def until(condition):
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def test_the_engine_writes_the_next_answers_while_the_last_ones_are_graded(scored):
    first, second = (scored.actor.score.remote(work) for work in scored.works)
    until(lambda: scored.graders())
    until(lambda: scored.generated() == 2)
    assert ray.wait([first, second], num_returns=2, timeout=0)[0] == []
    scored.go.touch()
    for reference, work in zip((first, second), scored.works, strict=True):
        (evaluation,) = ray.get(reference)
        assert evaluation.candidate == work.candidates[0]
        assert evaluation.rewards == (1.0,) * EXAMPLES
        assert evaluation.outcomes == (GRADED,) * EXAMPLES


def test_a_grader_actor_that_dies_is_replaced_and_the_answers_are_graded_again(scored):
    reference = scored.actor.score.remote(scored.works[0])
    (child,) = until(scored.graders)
    parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    assert "Grader" in Path(f"/proc/{parent}/cmdline").read_text()
    os.kill(parent, signal.SIGKILL)
    until(lambda: len(scored.graders()) == 2)
    scored.go.touch()
    (evaluation,) = ray.get(reference)
    assert evaluation.rewards == (1.0,) * EXAMPLES
    assert scored.generated() == 1
    assert runs.ended(child)


def test_graders_end_with_their_scorer(scored):
    scored.actor.score.remote(scored.works[0])
    (child,) = until(scored.graders)
    scored.go.touch()
    ray.kill(scored.actor)
    assert runs.ended(child)
    with pytest.raises(ValueError, match="corp_ray/run/grader/1/1"):
        until(lambda: not ray.get_actor("corp_ray/run/grader/1/1"))


def test_a_node_where_the_task_cannot_be_made_says_so(tmp_path, ray_address):
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        model = runs.model_folder(tmp_path / "model")
        settings = {"kind": "rows", "path": str(runs.task_file(tmp_path / "t.jsonl", 20))}
        settings["grader"] = "tests.absent:grader"
        kind = "tests.fake_engine:FakeEngine"
        engine = EngineSettings(kind, "bfloat16", "cpu", 1, "auto", 8, 8, (".*",), ())
        actor = ScorerActor.remote(engine, TaskSettings(settings, {}, 0, "v", {}))
        ready = ray.get(actor.ready.remote(Center(str(model), "d")))
        assert isinstance(ready.error, TaskError)
        assert "tests.absent" in str(ready.error)
    finally:
        ray.shutdown()


def test_a_crashing_grader_costs_its_answers_not_the_run(tmp_path, ray_address):
    config = runs.workspace(tmp_path, **{"task.grader": "tests.bad_graders:crashing"})
    code, _, err = runs.run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    root = tmp_path / "runs/run"
    assert runs.commit_files(root)
    rows = runs.rows(root)
    task = make_task(kind="rows", path=str(tmp_path / "task.jsonl"), grader="numeric")
    sizes = {"support": 120, "validation": 120, "gate": 400, "test": 300}
    bad = {
        name: sum(unbearable(example.answer) for example in split.examples)
        for name, split in make_splits(task, sizes, 0).items()
    }
    assert 0 not in bad.values()
    assert {(row["split"], row["outcomes"].count(2)) for row in rows} == set(bad.items())
    progress = json.loads((root / "progress.json").read_text())
    assert progress["verifier_errors"] == sum(row["outcomes"].count(2) for row in rows)
