"""Tensor parallelism, other architectures and what is refused, on pico models and real vLLM.

Each engine is made in an actor of its own: vLLM holds process-wide state.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from corp_ray import checkpoint, parameters
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings, make_engine
from corp_ray.engines.self_check import self_check
from corp_ray.errors import ConfigError
from corp_ray.records import Center
from tests import runs
from tests.pico import pico_llama, pico_tokenizer

SYSTEM = {"role": "system", "content": "Reply with a number, and nothing else."}
PROMPTS = [
    [SYSTEM, {"role": "user", "content": text}]
    for text in ("1 + 1", "12 + 30 is what, please?", "7", "say 15", "1 + 2", "a longer one " * 3)
]
DIRECTION = Direction({11: 0.05, 12: 0.02, 2**62: -0.03})


def settings(kind="vllm", **changes):
    values = {
        "kind": kind,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "chat_template": "auto",
        "max_new_tokens": 12,
        "batch_size": 8,
        "include": (".*",),
        "exclude": (),
        "prompt_tokens": 160,
    }
    return EngineSettings(**(values | changes))


@ray.remote(num_cpus=1)
class Host:
    """A process that holds one engine."""

    def make(self, engine, folder):
        """(digest, answers and log-probabilities of the base, then with DIRECTION), checked."""
        self.engine = make_engine(engine)
        center = Center(str(folder), checkpoint.folder_digest(Path(folder), engine.dtype))
        self.engine.load(center)
        self_check(self.engine, center, engine, PROMPTS[:2])
        return [self.look(), self.look(DIRECTION)]

    def look(self, direction=Direction()):  # noqa: B008 (immutable)
        self.engine.apply(direction)
        return (
            self.engine.digest(),
            self.engine.generate(PROMPTS),
            self.engine.next_token_logprobs(PROMPTS),
        )

    def processes(self):
        """This process, and those that it started."""
        return os.getpid(), [child.pid for child in psutil.Process().children(recursive=True)]


@pytest.fixture(scope="module")
def cluster(ray_address):
    ray.init(address=ray_address, log_to_driver=False)
    yield
    ray.shutdown()


def made(engine, folder):
    host = Host.remote()
    try:
        return ray.get(host.make.remote(engine, str(folder)))
    finally:
        ray.kill(host)


def assert_alike(found, expected):
    """The same digests and answers, log-probabilities within 1e-4."""
    for (digest, answers, ours), (wanted, texts, theirs) in zip(found, expected, strict=True):
        assert digest == wanted
        assert answers == texts
        for one, other in zip(ours, theirs, strict=True):
            common = one.keys() & other.keys()
            assert len(common) >= 18
            assert max(abs(one[token] - other[token]) for token in common) < 1e-4


def qwen2(folder):
    """A pico Qwen2: biases on query, key and value, and an output head of its own."""
    tokenizer = pico_tokenizer()
    config = Qwen2Config(
        vocab_size=264,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pico_llama(
        tmp_path_factory.mktemp("ranks") / "model", hidden=128, dtype=torch.float32, seed=4
    )


def test_two_ranks_hold_and_say_what_one_does_and_end_with_their_engine(cluster, folder):
    expected = made(settings(), folder)
    host = Host.options(num_cpus=2).remote()
    assert_alike(ray.get(host.make.remote(settings(tensor_parallel=2), str(folder))), expected)
    assert expected[0][0] != expected[1][0]
    assert expected[0][1] != expected[1][1]
    own, started = ray.get(host.processes.remote())
    ranks = [psutil.Process(pid) for pid in started]
    assert len([rank for rank in ranks if rank.is_running()]) >= 2
    os.kill(own, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(rank.is_running() and rank.status() != "zombie" for rank in ranks):
        assert time.monotonic() < deadline, "a rank outlived its engine"
        time.sleep(0.2)


@pytest.mark.parametrize("pristine", ["host", "disk"])
def test_where_the_center_is_kept_changes_nothing(cluster, folder, pristine):
    expected = made(settings("transformers"), folder)
    assert_alike(made(settings(pristine=pristine), folder), expected)


def test_biases_and_an_untied_head_are_those_of_transformers(cluster, tmp_path):
    source = qwen2(tmp_path / "qwen2")
    names = {spec.name for spec in parameters.read_specs(source)}
    assert {"lm_head.weight", "model.layers.0.self_attn.q_proj.bias"} <= names
    assert_alike(made(settings(), source), made(settings("transformers"), source))


def test_options_that_cannot_be_are_refused_by_name(folder):
    for options, part in (
        ({"seed": 3}, r"engine\.options\.seed: not to be set"),
        ({"enforce_eagr": True}, r"engine\.options\.enforce_eagr: no argument of vLLM 0\.32\.0"),
        ({"enforce_eager": False}, r"engine\.options\.enforce_eager=False"),
    ):
        with pytest.raises(ConfigError, match=part):
            make_engine(settings(options=options))


def test_a_wrong_option_of_an_engine_in_an_actor_ends_the_job_with_2(tmp_path, ray_address):
    pico_llama(tmp_path / "model", hidden=128)
    code, line = job(tmp_path, "engine.options.seed=3", ray_address=ray_address)
    assert code == 2
    assert line.startswith("error: engine.options.seed: not to be set")


def second_ranks():
    """The processes that say they are rank 1 of an engine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any("VLLM::Worker_TP1" in part for part in process.cmdline()[:1]):
                found.append(process)
    return found


def test_an_engine_that_lost_a_rank_is_replaced(tmp_path, ray_address):
    """The actor lives on, so the engine has to say that it cannot go on."""
    pico_llama(tmp_path / "model", hidden=128, dtype=torch.float32)
    runs.task_file(tmp_path / "task.jsonl", 60)
    config = runs.configuration(
        tmp_path,
        **{
            "engine.kind": "vllm",
            "engine.tensor_parallel": 2,
            "ray.engines": 1,
            "model.dtype": "float32",
            "splits": {"support": 24, "validation": 8, "gate": 8, "test": 8},
            "population.size": 160,  # work enough left when the rank is killed
            "recentering.rounds": 0,
        },
    )
    process = runs.start(config, RAY_ADDRESS=ray_address)
    while not (tmp_path / "runs/run/rewards").is_dir() or len(runs.rows(tmp_path / "runs/run")) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    # A process's title is for a moment not to be read: the name ends in the middle then.
    while len(ranks := second_ranks()) != 1:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    ranks[0].kill()
    code, _, err = runs.finish(process)
    assert code == 0, err
    assert err.count("was lost; starting another") == 1
    keys = [
        (r["center_digest"], r["split"], r["direction_digest"])
        for r in runs.rows(tmp_path / "runs/run")
    ]
    assert len(keys) == len(set(keys)) > 160


def job(folder, *overrides, ray_address):
    runs.task_file(folder / "task.jsonl", 60)
    config = runs.configuration(
        folder,
        **{
            "engine.kind": "vllm",
            "splits": {"support": 8, "validation": 8, "gate": 8, "test": 8},
            "model.dtype": "float32",
        },
    )
    code, _, err = runs.run(config, *overrides, RAY_ADDRESS=ray_address)
    assert "Traceback" not in err
    assert not (folder / "runs").exists(), "a run directory was made"
    return code, err.splitlines()[-1]


def test_an_architecture_that_vllm_does_not_know_is_named(tmp_path, ray_address):
    path = pico_llama(tmp_path / "model", hidden=128) / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"architectures": ["PicoForCausalLM"]})
    )
    code, line = job(tmp_path, ray_address=ray_address)
    assert code == 2
    assert "vLLM 0.32.0 has no architecture 'PicoForCausalLM'" in line


def test_answers_that_do_not_fit_are_refused_before_an_engine_starts(tmp_path, ray_address):
    pico_llama(tmp_path / "model", hidden=128)
    code, line = job(tmp_path, "decoding.max_new_tokens=500", ray_address=ray_address)
    assert code == 2
    assert "decoding.max_new_tokens=500: the longest prompt has" in line
    assert "the model takes 512 in all" in line
    code, line = job(tmp_path, "engine.options.max_model_len=64", ray_address=ray_address)
    assert code == 2
    assert "engine.options.max_model_len=64: expected at least" in line


def test_a_quantized_checkpoint_is_refused_before_ray_starts(tmp_path):
    path = pico_llama(tmp_path / "model", hidden=128) / "config.json"
    changed = {"quantization_config": {"quant_method": "gptq"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    code, line = job(tmp_path, ray_address="127.0.0.1:1")
    assert code == 2
    assert "quantized weights; perturbation needs float weights" in line
