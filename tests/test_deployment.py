"""The files in docker/ against the linters and schemas of those who will read them; no network."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from corp_ray.config import load

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
TOOLS = Path(sys.executable).parent
RAYJOB = (DOCKER / "rayjob.yaml").read_text()
KUBERNETES = "1.32"


def run_tool(*command: str | Path) -> str:
    """What a linter has to say; empty when nothing."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("name", ["cpu.Dockerfile", "gpu.Dockerfile"])
def test_hadolint_finds_nothing_in_the_images(name):
    assert run_tool(TOOLS / "hadolint", "--failure-threshold=info", DOCKER / name) == ""


def instructions(name: str) -> list[list[str]]:
    text = (DOCKER / name).read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]


@pytest.mark.parametrize("name", ["cpu.Dockerfile", "gpu.Dockerfile"])
def test_the_images_end_as_a_user_and_copy_only_what_exists(name):
    lines = instructions(name)
    assert [words[1] for words in lines if words[0] == "USER"][-1] == "1000"
    copied = [
        word
        for words in lines
        if words[0] == "COPY"
        for word in words[1:-1]
        if not word.startswith("--")
    ]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert "models" not in copied


def test_shellcheck_and_bash_find_nothing_in_the_slurm_file():
    assert run_tool(TOOLS / "shellcheck", DOCKER / "slurm.sbatch") == ""
    assert run_tool("bash", "-n", DOCKER / "slurm.sbatch") == ""


def compose_says(text: str, folder: Path) -> str:
    (folder / "compose.yaml").write_text(text)
    return run_tool(
        TOOLS / "check-jsonschema",
        "--builtin-schema=vendor.compose-spec",
        folder / "compose.yaml",
    )


def test_the_compose_file_is_of_the_compose_schema_which_knows_its_fields(tmp_path):
    text = (DOCKER / "compose.yaml").read_text()
    assert compose_says(text, tmp_path) == ""
    assert "heatlhcheck" in compose_says(text.replace("healthcheck:", "heatlhcheck:"), tmp_path)


def test_compose_shares_volumes_waits_for_the_head_and_opens_one_local_port():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert {name for name in services if name != "submit"} == {"head", "worker-1", "worker-2"}
    for name, service in services.items():
        assert {volume.split(":")[1] for volume in service["volumes"]} == {
            "/work/models",
            "/work/runs",
        }
        assert service.get("ports", []) == (["127.0.0.1:8265:8265"] if name == "head" else [])
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        if name != "head":
            assert service["depends_on"]["head"]["condition"] == "service_healthy"
        assert name == "submit" or service["healthcheck"]["test"][0] == "CMD"
    assert services["submit"]["profiles"] == ["submit"]


def overrides_of(command: str) -> tuple[Path, list[str]]:
    """Configuration file and overrides of a `python -m jobs.posttrain` command line."""
    words = shlex.split(command)
    start = words.index("jobs.posttrain")
    config = words[start + 2].replace("/opt/corp/", "")
    config = re.sub(r"\$\{\w+:-(.*)\}", r"\1", config)
    return ROOT / config, [word for word in words[start + 3 :] if "=" in word]


def commands() -> dict[str, str]:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    rayjob = yaml.safe_load(RAYJOB)
    return {
        "compose": compose["services"]["submit"]["command"],
        "rayjob": rayjob["spec"]["entrypoint"],
    }


@pytest.mark.parametrize("name", ["compose", "rayjob"])
def test_submitted_commands_are_valid_runs_with_absolute_paths(name):
    path, overrides = overrides_of(commands()[name])
    config = load(str(path), overrides)
    for setting in (config.run.directory, config.model.path, config.task.path):
        assert setting == "" or setting.startswith("/")


def rayjob_errors(manifest: dict) -> list[str]:
    """What KubeRay's and Kubernetes' schemas object to."""
    schema = json.loads((ROOT / "tests/schemas/rayjob.json").read_text())
    errors = [
        error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    ]
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in [cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
        try:
            kubernetes_validate.validate(pod | group.get("template", {}), KUBERNETES, strict=True)
        except jsonschema.ValidationError as error:
            errors.append(error.message)
    return errors


@pytest.fixture
def rayjob():
    return yaml.safe_load(RAYJOB)


def test_the_rayjob_is_of_the_schemas_of_kuberay_and_kubernetes(rayjob):
    assert rayjob_errors(rayjob) == []


def test_the_rayjob_asks_for_as_many_engines_as_its_autoscaler_may_start(rayjob):
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    most = sum(group["maxReplicas"] for group in cluster["workerGroupSpecs"])
    assert f"ray.engines={most} " in rayjob["spec"]["entrypoint"]


@pytest.mark.parametrize(
    "where",
    [
        ("spec", "backoffLimit"),
        ("spec", "rayClusterSpec", "authOptions"),
        ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "image"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volumes"),
    ],
)
def test_a_misspelt_field_of_the_rayjob_is_found(rayjob, where):
    broken = copy.deepcopy(rayjob)
    *path, name = where
    holder = broken
    for step in path:
        holder = holder[step]
    holder[f"{name}x"] = holder.pop(name)
    assert any(f"{name}x" in message for message in rayjob_errors(broken))


def test_the_rayjob_ends_by_itself_retries_and_leaves_time_to_drain(rayjob):
    spec = rayjob["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    cluster = spec["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        hook = " ".join(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
        waits = int(hook.rpartition("sleep ")[2])
        assert 30 < waits < pod["terminationGracePeriodSeconds"]


def uploaded(folder: Path, *, gitignore: bool) -> set[str]:
    """Top-level names in the package that `ray job submit --working-dir` makes of a folder."""
    package = folder.parent / f"package{gitignore}.zip"
    create_package(
        str(folder),
        package,
        include_gitignore=gitignore,
        excludes=get_runtime_env_default_excludes(),
    )
    assert package.stat().st_size < 20 * 2**20
    return {name.split("/")[0] for name in zipfile.ZipFile(package).namelist()}


@pytest.mark.parametrize("gitignore", [True, False])
def test_a_submitted_folder_goes_without_models_runs_and_environments(tmp_path, gitignore):
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("corp_ray", "jobs", "conf"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (".rayignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("models/m", "runs/r", ".venv/lib", ".venv-vllm/lib", "build", "dist", ".git"):
        (folder / name).mkdir(parents=True)
        with (folder / name / "weights").open("wb") as file:
            file.truncate(600 * 2**20)
    names = uploaded(folder, gitignore=gitignore)
    assert {"corp_ray", "jobs", "conf"} <= names
    assert names.isdisjoint({"models", "runs", ".venv", ".venv-vllm", "build", "dist", ".git"})
