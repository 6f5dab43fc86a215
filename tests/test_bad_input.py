"""Input that cannot run: the job ends before Ray starts, with exit code 2 and one line that names
field and value, and leaves the disk as it was."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from corp_ray import config as configuration
from corp_ray.run_directory import RunDirectory
from tests.pico import pico_llama

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Case:
    """Arguments, and what the error line must hold; {} is the workspace."""

    arguments: list[str]
    parts: list[str]


CASES = {
    "unknown key": Case(["populaton.size=3"], ["populaton", "did you mean 'population'"]),
    "wrong type": Case(["population.size=many"], ["population.size", "'many'"]),
    "sigma 0": Case(["population.sigmas=[0.01,0]"], ["population.sigmas=0.0", "above 0"]),
    "empty grid": Case(["consolidation.steps=[]"], ["consolidation.steps=[]"]),
    "quantile": Case(["consolidation.quantiles=[1.5]"], ["consolidation.quantiles=1.5", "[0, 1]"]),
    "splits too large": Case(["splits.gate=50"], ["splits: ", "gate 50", "= 62", "40 distinct"]),
    "no data": Case(["task.path={}/absent.jsonl"], ["task.path='{}/absent.jsonl'", "no such file"]),
    "row without answer": Case(
        ["task.path={}/gap.jsonl"], ["{}/gap.jsonl line 2", "'answer'", "question"]
    ),
    "no weights": Case(["model.path={}/hollow"], ["{}/hollow", "no weights"]),
    "run id taken": Case(["run.id=taken"], ["run.id='taken'", "run.seed=1", "now 0"]),
    "unwritable": Case(
        ["run.directory={}/task.jsonl/runs"],
        ["run.directory='{}/task.jsonl/runs'", "Not a directory"],
    ),
    "no engine": Case(["engine.kind=vlm"], ["engine.kind='vlm'", "transformers, vllm or module"]),
    "no ranks": Case(
        ["engine.tensor_parallel=2"], ["engine.tensor_parallel=2", "1, or engine.kind=vllm"]
    ),
    "part of a GPU": Case(
        ["engine.kind=vllm", "ray.gpus_per_engine=0.5"],
        ["ray.gpus_per_engine=0.5", "a whole GPU for each"],
    ),
    "nowhere": Case(["engine.pristine=cloud"], ["engine.pristine='cloud'", "device, host, disk"]),
    "round too large": Case(
        ["recentering.population=8000", "recentering.rounds=1", "population.size=10000"],
        ["recentering.population=8000", "low_rank=false", "population.size=10000", "144,000,000"],
    ),
    "no Ray": Case(["run.directory={}/without_ray"], ["RAY_ADDRESS='127.0.0.1:1'"]),
}


def snapshot(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def rows(path, count):
    lines = [{"question": f"say {i}", "answer": str(i)} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two models (one without weights), two task files (one with a gap), a run that is taken."""
    folder = tmp_path_factory.mktemp("bad_input")
    pico_llama(folder / "model")
    (pico_llama(folder / "hollow") / "model.safetensors").unlink()
    rows(folder / "task.jsonl", 40)
    with rows(folder / "gap.jsonl", 1).open("a") as stream:
        stream.write('{"question": "say nothing"}\n')
    settings = {
        "run": {"id": "run", "directory": str(folder / "runs")},
        "model": {"path": str(folder / "model")},
        "task": {"kind": "rows", "path": str(folder / "task.jsonl")},
        "splits": {"support": 4, "validation": 4, "gate": 4, "test": 4},
        "population": {"size": 4},
        "engine": {"device": "cpu"},
    }
    OmegaConf.save(OmegaConf.create(settings), folder / "conf.yaml")
    config = configuration.load(str(folder / "conf.yaml"), ["run.id=taken", "run.seed=1"])
    RunDirectory(config).open({"model": "m"})
    return folder


@pytest.fixture(scope="module")
def ended(workspace):
    """(state before, every case's finished process, state after); two processes at a time.

    Nothing listens at RAY_ADDRESS: a case that came as far as Ray would end with that error.
    """

    def run(case):
        arguments = [argument.replace("{}", str(workspace)) for argument in case.arguments]
        command = [sys.executable, "-m", "jobs.posttrain", "--config", f"{workspace}/conf.yaml"]
        return subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
            capture_output=True,
            text=True,
            check=False,
        )

    before = snapshot(workspace)
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(CASES, pool.map(run, CASES.values()), strict=True))
    return before, done, snapshot(workspace)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_in_one_line_that_names_field_and_value(workspace, ended, name):
    done = ended[1][name]
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for part in CASES[name].parts:
        assert part.replace("{}", str(workspace)) in lines[-1]


def test_bad_input_leaves_no_run_directory_and_changes_none(workspace, ended):
    before, _, after = ended
    assert sorted(path.name for path in (workspace / "runs").iterdir()) == ["taken"]
    elsewhere = workspace / "without_ray"
    assert {p: c for p, c in after.items() if not p.is_relative_to(elsewhere)} == before


def test_a_ray_that_nobody_runs_leaves_no_run_directory(workspace, ended):
    assert not (workspace / "without_ray").exists()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_vllm_is_named_with_what_to_install(workspace):
    before = snapshot(workspace)
    command = [sys.executable, "-m", "jobs.posttrain", "--config", f"{workspace}/conf.yaml"]
    done = subprocess.run(
        [*command, "engine.kind=vllm"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: engine.kind='vllm': no module 'vllm'")
    assert "install 'corp-ray[vllm]'" in done.stderr
    assert snapshot(workspace) == before
