"""SmolLM2-135M through the jobs: a small run, and a committed folder in every way it can be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corp_ray import checkpoint, config, parameters
from corp_ray.direction import Direction
from corp_ray.engines import make_engine
from corp_ray.engines.prompts import end_tokens
from corp_ray.engines.transformers import generate_greedy
from corp_ray.gate import judge
from corp_ray.posttrain import model_folder
from corp_ray.preparation import prepare
from corp_ray.recipe import Recipe
from corp_ray.records import Center
from corp_ray.tasks import make_task
from corp_ray.tasks.splits import make_splits
from tests import runs

MODEL = runs.ROOT / "models/SmolLM2-135M-Instruct"
CONFIG = runs.ROOT / "conf/demo.yaml"
SMALL = (
    f"model.path={MODEL}",
    "splits={support: 8, validation: 8, gate: 16, test: 24}",
    "decoding.max_new_tokens=8",
    "population.size=3",
    "consolidation.steps=[2.0]",
    "consolidation.quantiles=[0.5]",
    "consolidation.inverse_temperatures=[5.0]",
    "compare.votes=2",
    "recentering.rounds=0",
    "ray.engines=1",  # loading more of them than there are cores takes longer than the work
)
DIRECTION = Direction({101: 0.003, 2**61: -0.002, 77: 0.001})

pytestmark = pytest.mark.skipif(
    not MODEL.exists(), reason="models/SmolLM2-135M-Instruct is not prepared; `make test` does it"
)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A folder as a run commits it: the base plus DIRECTION, with its recipe and model card."""
    folder = tmp_path_factory.mktemp("committed") / "1"
    names = parameters.perturbed_names(parameters.read_specs(MODEL), [".*"], [])
    base = checkpoint.folder_digest(MODEL, "bfloat16", threads=2)
    empty = Recipe(str(MODEL), base, "bfloat16", names, "adding", ())
    staged = folder.with_name("staged")
    digest = checkpoint.stage(MODEL, staged, empty, [DIRECTION], threads=2)
    verdict = judge([0] * 30, [1] * 30, alpha=0.05, min_gain=0.0, look=1)
    checkpoint.commit(staged, folder, empty.extended(DIRECTION, 0, verdict))
    return folder, digest


@pytest.fixture(scope="module")
def prompts():
    settings = config.load(str(CONFIG), SMALL)
    task = make_task(**config.task_settings(settings.task))
    sizes = {"support": 8, "validation": 8, "gate": 16, "test": 24}
    examples = make_splits(task, sizes, settings.splits.seed)["test"].examples
    return [task.prompt(example) for example in examples]


def test_a_small_run_on_the_real_model_goes_through_and_is_compared(tmp_path, ray_address):
    code, out, err = runs.run(
        CONFIG, *SMALL, f"run.directory={tmp_path}", job="compare", RAY_ADDRESS=ray_address
    )
    assert code == 0, err
    assert "test split" in out
    report = json.loads((tmp_path / "demo/report/compare.json").read_text())
    methods = {row["name"]: row for row in report["rows"]}
    decided = json.loads((tmp_path / "demo/report/test.json").read_text())["test"]
    assert [methods["base"]["mean"], methods["best_single"]["mean"]] == [
        row["mean"] for row in decided[:2]
    ]
    assert methods["majority_vote"]["forward_passes"] == 2
    tokens = [row["generated_tokens_per_item"] for row in report["rows"]]
    assert min(tokens) > 1
    rows = runs.rows(tmp_path / "demo")
    assert len([r for r in rows if r["split"] == "support"]) == 4
    assert all(r["generated_tokens"] > 0 and r["engine"].startswith("transformers") for r in rows)
    engines = {tuple(r["rewards"]) for r in rows if r["kind"] == "candidate"}
    assert engines


def test_export_rebuilds_the_committed_folder_byte_for_byte(committed, tmp_path):
    folder, digest = committed
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "jobs.export",
            f"recipe={folder}/recipe.json",
            f"output={tmp_path}/rebuilt",
        ],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert digest in done.stderr
    ours = {path.name: path.read_bytes() for path in folder.iterdir()}
    theirs = {path.name: path.read_bytes() for path in (tmp_path / "rebuilt").iterdir()}
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_plain_transformers_loads_it_and_answers_as_the_engine(committed, prompts):
    folder, digest = committed
    prepared = prepare(config.load(str(CONFIG), SMALL))
    engine = make_engine(prepared.engine)
    engine.load(Center(str(MODEL), checkpoint.folder_digest(MODEL, "bfloat16", threads=2)))
    engine.apply(DIRECTION)
    assert engine.digest() == digest
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == torch.bfloat16
    plain.set_attn_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = end_tokens(folder, tokenizer)
    answers = generate_greedy(plain, tokenizer, prompts, max_new_tokens=8, batch_size=64, ends=ends)
    assert answers == engine.generate(prompts)
    engine.apply(Direction())
    assert answers != engine.generate(prompts)


def test_a_recipe_is_rebuilt_beside_the_run_directories_where_other_nodes_find_it(
    committed, tmp_path
):
    folder, digest = committed
    killed = tmp_path / "runs/.demo=x/model"
    killed.mkdir(parents=True)
    places = [f"run.directory={tmp_path}/runs", f"evaluate.model={folder}/recipe.json"]
    with model_folder(config.load(str(CONFIG), [*SMALL, *places])) as model:
        assert Path(model).is_relative_to(tmp_path / "runs")
        assert checkpoint.folder_digest(Path(model), "bfloat16", threads=2) == digest
    assert list((tmp_path / "runs").iterdir()) == []


def test_evaluate_measures_a_folder_and_its_recipe_alike(committed, tmp_path, ray_address):
    folder, _ = committed
    for model in (folder, folder / "recipe.json"):
        code, out, err = runs.run(
            CONFIG,
            *SMALL,
            f"run.directory={tmp_path}",
            f"evaluate.model={model}",
            job="evaluate",
            RAY_ADDRESS=ray_address,
        )
        assert code == 0, err
        assert "base" in out
    reports = sorted((tmp_path / "demo-evaluate/report").glob("*.json"))
    (first, second) = (json.loads(path.read_text())["test"] for path in reports)
    assert [row["mean"] for row in first] == [row["mean"] for row in second]
    assert len(runs.rows(tmp_path / "demo-evaluate")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["demo-evaluate"], (
        "a rebuilt model is left"
    )
    assert os.environ.get("RAY_ADDRESS") is None
