"""Parameters: a folder's tensors by canonical name from their headers alone, which of them are
perturbed, and one line for a folder that cannot be used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from corp_ray.errors import CheckpointError
from corp_ray.parameters import (
    TensorSpec,
    model_digest,
    perturbed_names,
    read_specs,
    resolve,
)
from tests.pico import pico_llama

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    return pico_llama(tmp_path_factory.mktemp("pico") / "model")


@pytest.fixture
def own(pico, tmp_path):
    """A copy of the model folder to spoil."""
    return Path(shutil.copytree(pico, tmp_path / "model"))


def refusal(folder):
    with pytest.raises(CheckpointError) as raised:
        read_specs(folder)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_specs_are_the_stored_tensors_ascending_by_name(pico):
    stored = load_file(pico / "model.safetensors")
    specs = read_specs(pico)
    assert [spec.name for spec in specs] == sorted(stored)
    assert {spec.name: spec.shape for spec in specs} == {n: t.shape for n, t in stored.items()}
    assert sum(spec.size for spec in specs) == sum(t.numel() for t in stored.values())
    assert {(spec.dtype, spec.file, spec.is_float) for spec in specs} == {
        ("BF16", "model.safetensors", True)
    }
    assert specs[0] == TensorSpec("model.embed_tokens.weight", "BF16", (264, 32), specs[0].file)


def test_shards_hold_the_same_tensors_in_several_files(pico, tmp_path):
    sharded = read_specs(pico_llama(tmp_path / "model", shards=3))
    assert len({spec.file for spec in sharded}) >= 3
    assert [(s.name, s.shape) for s in sharded] == [(s.name, s.shape) for s in read_specs(pico)]


def test_a_tied_head_that_is_stored_twice_follows_the_embedding(own):
    specs = read_specs(own)
    tensors = load_file(own / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    assert read_specs(own) == specs
    edit_config(own, tie_word_embeddings=False, text_config={"tie_word_embeddings": True})
    assert read_specs(own) == specs  # a multimodal configuration nests it
    edit_config(own, tie_word_embeddings=False, text_config={"tie_word_embeddings": False})
    assert [s.name for s in read_specs(own)] == ["lm_head.weight", *(s.name for s in specs)]


def test_a_head_of_its_own_is_a_tensor_of_its_own(tmp_path):
    names = [spec.name for spec in read_specs(pico_llama(tmp_path / "model", tie=False))]
    assert names[0] == "lm_head.weight"


def test_every_float_tensor_is_perturbed_by_default(own):
    tensors = load_file(own / "model.safetensors")
    tensors["model.steps"] = torch.arange(3)
    tensors["model.scale"] = torch.ones((), dtype=torch.float32)
    save_file(tensors, own / "model.safetensors")
    specs = read_specs(own)
    names = perturbed_names(specs, [".*"], [])
    assert set(tensors) - set(names) == {"model.steps"}
    assert list(names) == sorted(names)


def test_include_and_exclude_are_regular_expressions_on_names(pico):
    specs = read_specs(pico)
    everything = perturbed_names(specs, [".*"], [])
    layer = [name for name in everything if name.startswith("model.layers.1.")]
    assert list(perturbed_names(specs, [r"model\.layers\.1\."], [])) == layer
    assert set(perturbed_names(specs, [".*"], [r"model\.layers\.1\."])) == set(everything) - {
        *layer
    }
    both = perturbed_names(specs, [r".*q_proj", r".*k_proj"], [r"model\.layers\.0"])
    assert both == (
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
    )
    with pytest.raises(CheckpointError, match=r"layers\.1") as raised:
        perturbed_names(specs, ["layers.1"], [])  # matched from the start of a name
    assert "no tensor is left" in str(raised.value)
    with pytest.raises(CheckpointError, match="no tensor is left"):
        perturbed_names(specs, [".*"], [".*"])


def test_quantized_weights_are_refused(own):
    edit_config(own, quantization_config={"quant_method": "gptq"})
    assert "quantized" in refusal(own)


def test_a_folder_without_config_or_weights_is_refused_by_name(own, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty" / "config.json") in refusal(tmp_path / "empty")
    (own / "model.safetensors").rename(own / "model.bin")
    assert str(own) in refusal(own)
    assert "no weights" in refusal(own)


@pytest.mark.parametrize("content", ["{", "[]", '"model"'])
def test_a_broken_config_is_named(own, content):
    (own / "config.json").write_text(content)
    assert "config.json" in refusal(own)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_broken_weight_file_is_named(own, kept):
    path = own / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in refusal(own)


def test_the_model_digest_covers_weights_configuration_and_tokenizer(own):
    digests = [model_digest(own)]
    (own / "recipe.json").write_text("{}")
    (own / "notes.md").write_text("mine")
    assert model_digest(own) == digests[0]
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        with (own / name).open("ab") as stream:
            stream.write(b" ")
        digests.append(model_digest(own))
    (own / "tokenizer.json").rename(own / "vocab.json")
    digests.append(model_digest(own))
    assert len(set(digests)) == 6


def test_a_path_resolves_to_its_folder(pico, monkeypatch):
    assert resolve(str(pico)) == pico
    monkeypatch.setenv("HOME", str(pico.parent))
    assert resolve("~/model") == pico
    monkeypatch.chdir(pico.parent)
    assert resolve("model").samefile(pico)


@pytest.mark.parametrize("path", ["/no/such/folder", "./model", "~/no/model", "model", "a/b/c"])
def test_a_missing_folder_that_is_no_hub_id_is_one_line(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        resolve(path)
    assert f"model.path={path!r}" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_hub_id_that_cannot_be_fetched_is_one_line(tmp_path):
    code = (
        "import sys\nfrom corp_ray.errors import CheckpointError\n"
        "from corp_ray.parameters import resolve\n"
        "try:\n    resolve('nobody/nothing')\nexcept CheckpointError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("model.path='nobody/nothing'")
    assert "hub" in line


@pytest.mark.parametrize(
    "failure", [RuntimeError("no route\n\nCheck your\nnetwork"), TimeoutError()]
)
def test_whatever_the_hub_client_raises_becomes_one_line(monkeypatch, failure):
    def unreachable(*_, **__):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError) as raised:
        resolve("nobody/nothing")
    assert "model.path='nobody/nothing'" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
