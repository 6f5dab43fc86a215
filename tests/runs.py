"""Small complete runs on the fake engine: a model folder, a task file, a configuration, a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent


def model_folder(folder: Path, *, seed: int = 0) -> Path:
    """Weights of a few thousand parameters and a config.json: all that the fake engine needs."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {
        f"model.layers.{i}.{name}.weight": (
            torch.randn(shape, generator=generator) * 0.02
        ).bfloat16()
        for i in range(2)
        for name, shape in (("q_proj", (32, 24)), ("mlp", (24, 40)), ("norm", (24,)))
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "fake", "dtype": "bfloat16"}')
    return folder


def task_file(path: Path, rows: int = 1200) -> Path:
    path.write_text(
        "".join(
            json.dumps({"question": f"say {i}", "answer": str(i)}) + "\n"
            for i in range(1, rows + 1)
        )
    )
    return path


def configuration(folder: Path, **changes: object) -> Path:
    """Write conf.yaml of a run that takes seconds and commits; `changes` are dotted overrides."""
    base = {
        "run": {"directory": str(folder / "runs"), "id": "run", "report": False},
        "model": {"path": str(folder / "model")},
        "task": {"kind": "rows", "path": str(folder / "task.jsonl"), "grader": "numeric"},
        "splits": {"support": 120, "validation": 120, "gate": 400, "test": 300},
        "population": {"size": 24, "sigmas": [0.01, 0.02]},
        "consolidation": {
            "quantiles": [0.5, 0.8],
            "inverse_temperatures": [5.0, 20.0],
            "steps": [1.0, 2.0, 4.0],
        },
        "recentering": {"rounds": 1, "population": 12},
        "engine": {"kind": "tests.fake_engine:FakeEngine", "device": "cpu"},
        "ray": {"engines": 2, "wait_s": 0},
    }
    config = OmegaConf.merge(
        OmegaConf.create(base), OmegaConf.from_dotlist([f"{k}={v}" for k, v in changes.items()])
    )
    path = folder / "conf.yaml"
    OmegaConf.save(config, path)
    return path


def workspace(folder: Path, **changes: object) -> Path:
    """A folder with model, task and conf.yaml; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    model_folder(folder / "model")
    task_file(folder / "task.jsonl")
    return configuration(folder, **changes)


def start(config: Path, *overrides: str, job: str = "posttrain", **environment: str):
    """The job as a process of its own, with its output captured."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{job}", "--config", str(config), *overrides],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout_s: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def run(config: Path, *overrides: str, job: str = "posttrain", **environment: str):
    """(exit code, standard output, standard error) of the job, run to its end."""
    return finish(start(config, *overrides, job=job, **environment))


def export(recipe: str, output: Path, **environment: str):
    """(exit code, standard output, standard error) of jobs/export."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.export", f"recipe={recipe}", f"output={output}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return finish(process)


def ray_head() -> Any:
    """A Ray head with 4 CPU slots, separate processes; whoever starts it shuts it down."""
    from ray.cluster_utils import Cluster

    return Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "object_store_memory": 100 * 2**20,
            "include_dashboard": False,
        },
    )


def kill_when(
    process: subprocess.Popen, condition: Callable[[], bool], timeout_s: float = 120
) -> bool:
    """SIGKILL the driver as soon as `condition` holds; False when it ended before."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.005)
    process.communicate()
    return False


def rows(run_directory: Path) -> list[dict]:
    """Every reward row on disk, over all parts, duplicates included."""
    return [
        row
        for part in sorted((run_directory / "rewards").glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]


def commit_files(run_directory: Path) -> dict[str, bytes]:
    """Every committed file by its path below commits/."""
    commits = run_directory / "commits"
    return {
        str(path.relative_to(commits)): path.read_bytes()
        for path in sorted(commits.rglob("*"))
        if path.is_file()
    }


def ended(pid: int, within_s: float = 20.0) -> bool:
    """Whether a process is gone, or is so soon (a zombie counts)."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
