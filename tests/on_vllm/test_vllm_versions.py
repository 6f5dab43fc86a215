"""Which vLLM is taken: too old is refused, untested warns, a device that it does not run on is named.

No engine is started here.
"""

from __future__ import annotations

import pytest

from corp_ray.actors import Scorer
from corp_ray.config import task_settings
from corp_ray.engines import EngineSettings, make_engine
from corp_ray.errors import ConfigError
from corp_ray.settings import TaskConfig
from corp_ray.tasks import make_task
from corp_ray.tasks.settings import TaskSettings
from corp_ray.tasks.splits import make_splits
from tests import runs

SETTINGS = EngineSettings(
    kind="vllm",
    dtype="float32",
    device="cpu",
    threads=1,
    chat_template="auto",
    max_new_tokens=8,
    batch_size=8,
    include=(".*",),
    exclude=(),
)


def test_a_vllm_that_cannot_reload_from_an_iterator_is_too_old(monkeypatch):
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    monkeypatch.setattr(GPUModelRunner, "reload_weights", lambda self: None)
    with pytest.raises(ConfigError, match=r"0\.20 or newer is needed; install 'corp-ray\[vllm\]'"):
        make_engine(SETTINGS)


def test_an_untested_version_warns_and_the_driver_hears_of_it(monkeypatch, tmp_path):
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    config = TaskConfig(kind="rows", path=str(runs.task_file(tmp_path / "task.jsonl", 20)))
    task = make_task(**task_settings(config))
    sizes = {"support": 4, "validation": 4, "gate": 4, "test": 4}
    digests = {name: split.digest for name, split in make_splits(task, sizes, 0).items()}
    settings = TaskSettings(task_settings(config), sizes, 0, task.version, digests)
    scorer = Scorer(SETTINGS, settings)
    assert scorer._engine.describe().startswith("vllm 0.99.0")
    assert scorer._warnings.lines == ["vLLM 0.99.0: tested are 0.32.0"]


def test_a_tested_version_does_not_warn(caplog):
    make_engine(SETTINGS)
    assert caplog.records == []


def test_a_device_that_this_vllm_does_not_run_on_is_named():
    changed = EngineSettings(**(vars(SETTINGS) | {"device": "cuda"}))
    with pytest.raises(ConfigError, match=r"engine\.device='cuda': this vLLM runs on 'cpu'"):
        make_engine(changed)
