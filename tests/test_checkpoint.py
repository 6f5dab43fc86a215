"""Checkpoints: a staged update holds exactly the perturbed weights, a commit takes its place whole,
and base + recipe rebuild a committed folder byte for byte."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from corp_ray import checkpoint, parameters, weights
from corp_ray import recipe as recipe_file
from corp_ray.direction import Direction
from corp_ray.errors import CheckpointError
from corp_ray.gate import paired_test
from corp_ray.model_folder import export
from corp_ray.recipe import Recipe
from tests.pico import pico_llama

STEPS = (
    Direction({3: 0.02, 2**63 - 1: -0.01, 8: 1 / 3e3}),
    Direction({5: 0.004, 3: 1e-3}),
)
VERDICT = paired_test([0.0, 1.0] * 30, [1.0, 1.0] * 30, alpha=0.05)


def new_recipe(base, dtype, *, include=".*"):
    names = parameters.perturbed_names(parameters.read_specs(base), [include], [])
    digest = checkpoint.folder_digest(base, dtype)
    return Recipe("owner/pico", digest, dtype, names, "count to ten", ())


def committed(base, folder, dtype, *, steps=STEPS, include=".*"):
    """The folders of a run that commits `steps` one after the other, each onto the last."""
    source, recipe, places = base, new_recipe(base, dtype, include=include), []
    for number, step in enumerate(steps, 1):
        checkpoint.stage(source, folder / f".staged-{number}", recipe, [step])
        recipe = recipe.extended(step, number - 1, VERDICT)
        checkpoint.commit(folder / f".staged-{number}", folder / str(number), recipe)
        source = folder / str(number)
        places.append(source)
    return places


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(base, dtype, steps=STEPS, names=None):
    """Weights after `steps` by weights.apply on whole tensors, one step after the other."""
    tensors = {
        name: tensor.to(checkpoint.DTYPES[dtype])
        for path in base.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    for step in steps:
        for name in names or tensors:
            tensors[name] = weights.apply_to_tensor(tensors[name], name, step)
    return tensors


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name])
        for name in wanted
    )


def stored(folder):
    return {n: t for path in folder.glob("*.safetensors") for n, t in load_file(path).items()}


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    return pico_llama(tmp_path_factory.mktemp("pico") / "model")


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    ("stored_dtype", "dtype"),
    [("bfloat16", "bfloat16"), ("float32", "float32"), ("float32", "bfloat16")],
)
def test_base_and_recipe_rebuild_every_commit_byte_for_byte(
    tmp_path, stored_dtype, dtype, shards, tie
):
    base = pico_llama(
        tmp_path / "base", dtype=checkpoint.DTYPES[stored_dtype], shards=shards, tie=tie
    )
    (base / "README.md").write_text("the base's own card")
    (base / "original").mkdir()
    for number, place in enumerate(committed(base, tmp_path / "commits", dtype), 1):
        recipe = recipe_file.load(place / "recipe.json")
        assert [step.direction for step in recipe.steps] == list(STEPS[:number])
        digest = checkpoint.rebuild(recipe, base, tmp_path / f"rebuilt-{number}", threads=2)
        assert files(tmp_path / f"rebuilt-{number}") == files(place)
        assert digest == checkpoint.folder_digest(place, dtype)
        assert len(list(place.glob("*.safetensors"))) == len(list(base.glob("*.safetensors")))
        assert same(stored(place), expected(base, dtype, STEPS[:number]))
        assert (place / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert sorted(p.name for p in (tmp_path / "commits").iterdir()) == ["1", "2"]
    assert len({recipe.base_digest, digest, checkpoint.folder_digest(base, dtype)}) == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_committed_folder_loads_like_any_model_with_exactly_the_applied_weights(
    tmp_path, dtype, shards
):
    base = pico_llama(tmp_path / "base", dtype=checkpoint.DTYPES[dtype], shards=shards)
    place = committed(base, tmp_path, dtype)[-1]
    model = AutoModelForCausalLM.from_pretrained(place)
    wanted = expected(base, dtype)
    wanted["lm_head.weight"] = wanted["model.embed_tokens.weight"]
    assert same(model.state_dict(), wanted)
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer("2+2=", return_tensors="pt")
    assert model(**ids).logits.shape == (1, 4, 264)
    assert tokenizer.chat_template


def test_the_dtype_of_a_run_is_that_of_its_commits(tmp_path):
    base = pico_llama(tmp_path / "base", dtype=torch.float32)
    config = json.loads((base / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")  # as older folders have it
    (base / "config.json").write_text(json.dumps(config))
    (place,) = committed(base, tmp_path, "bfloat16", steps=STEPS[:1])
    config = json.loads((place / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "torch_dtype" not in config
    assert {t.dtype for t in stored(place).values()} == {torch.bfloat16}


def test_only_the_perturbed_tensors_change(pico, tmp_path):
    (place,) = committed(pico, tmp_path, "bfloat16", steps=STEPS[:1], include=".*self_attn")
    recipe = recipe_file.load(place / "recipe.json")
    assert same(stored(place), expected(pico, "bfloat16", STEPS[:1], recipe.perturbed))
    before, after = stored(pico), stored(place)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(recipe.perturbed)
    assert len(changed) == 8


def test_a_tensor_that_is_no_float_is_taken_over(tmp_path):
    base = pico_llama(tmp_path / "base")
    path = base / "model.safetensors"
    save_file({**load_file(path), "model.steps": torch.arange(5)}, path)
    (place,) = committed(base, tmp_path, "bfloat16", steps=STEPS[:1])
    assert torch.equal(stored(place)["model.steps"], torch.arange(5))


def test_a_tied_head_stored_twice_never_parts_from_its_embedding(pico, tmp_path):
    twice = pico_llama(tmp_path / "twice")
    tensors = load_file(twice / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, twice / "model.safetensors", metadata={"format": "pt"})
    (once_place,) = committed(pico, tmp_path / "a", "bfloat16", steps=STEPS[:1])
    (twice_place,) = committed(twice, tmp_path / "b", "bfloat16", steps=STEPS[:1])
    assert files(once_place) == files(twice_place)
    model = AutoModelForCausalLM.from_pretrained(twice_place)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_half_staged_folder_is_replaced(pico, tmp_path):
    recipe = new_recipe(pico, "bfloat16")
    digest = checkpoint.stage(pico, tmp_path / "clean", recipe, STEPS[:1])
    left = tmp_path / "left"
    left.mkdir()
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half")
    (left / "config.json").write_text("{")
    assert checkpoint.stage(pico, left, recipe, STEPS[:1]) == digest
    assert files(left) == files(tmp_path / "clean")
    rebuilt = recipe.extended(STEPS[0], 0, VERDICT)
    (tmp_path / ".again.staged").mkdir()
    (tmp_path / ".again.staged" / "junk.safetensors").write_bytes(b"half")
    assert checkpoint.rebuild(rebuilt, pico, tmp_path / "again") == digest
    assert "junk.safetensors" not in files(tmp_path / "again")


def test_nothing_is_overwritten(pico, tmp_path):
    (place,) = committed(pico, tmp_path, "bfloat16", steps=STEPS[:1])
    before, recipe = files(place), recipe_file.load(place / "recipe.json")
    checkpoint.stage(pico, tmp_path / "staged", recipe, STEPS[1:])
    with pytest.raises(CheckpointError, match="exists already"):
        checkpoint.commit(tmp_path / "staged", place, recipe)
    with pytest.raises(CheckpointError, match="exists already"):
        checkpoint.rebuild(recipe, pico, place)
    assert files(place) == before


def test_another_base_is_refused_and_leaves_nothing_behind(pico, tmp_path):
    (place,) = committed(pico, tmp_path / "commits", "bfloat16", steps=STEPS[:1])
    other = pico_llama(tmp_path / "other", seed=1)
    for base in (other, place):
        with pytest.raises(CheckpointError) as raised:
            export(str(place), str(tmp_path / "rebuilt"), str(base))
        found = checkpoint.folder_digest(base, "bfloat16")
        assert found[:12] in str(raised.value)
        assert checkpoint.folder_digest(pico, "bfloat16")[:12] in str(raised.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["commits", "other"]
    export(str(place / "recipe.json"), str(tmp_path / "rebuilt"), str(pico))
    assert files(tmp_path / "rebuilt") == files(place)


def test_a_tensor_that_the_folder_lacks_is_named(pico, tmp_path):
    recipe = replace(new_recipe(pico, "bfloat16"), perturbed=("model.absent",))
    with pytest.raises(CheckpointError, match=r"'model\.absent'"):
        checkpoint.stage(pico, tmp_path / "staged", recipe, STEPS)
    assert list(tmp_path.iterdir()) == []


def test_digests_depend_on_every_tensor_and_on_no_thread(pico, tmp_path):
    tensors = expected(pico, "bfloat16", ())
    digest = checkpoint.tensors_digest(tensors)
    assert {checkpoint.tensors_digest(tensors, threads=n) for n in (2, 3, 16)} == {digest}
    assert checkpoint.tensors_digest(dict(reversed(tensors.items()))) == digest
    assert checkpoint.folder_digest(pico, "bfloat16", threads=4) == digest
    sharded = pico_llama(tmp_path / "sharded", shards=3)
    assert checkpoint.folder_digest(sharded, "bfloat16") == digest
    name = "model.norm.weight"
    for other in (
        {**tensors, name: tensors[name].nextafter(torch.tensor(9.0, dtype=torch.bfloat16))},
        {**tensors, name: tensors[name].float()},
        {**tensors, name: tensors[name].view(4, -1)},
        {**tensors, "other.weight": tensors[name]},
        {n: t for n, t in tensors.items() if n != name},
    ):
        assert checkpoint.tensors_digest(other) != digest
    recipe = new_recipe(pico, "bfloat16")
    staged = {checkpoint.stage(pico, tmp_path / f"s{n}", recipe, STEPS, threads=n) for n in (1, 4)}
    assert len(staged) == 1


def test_a_recipe_survives_its_file_and_refuses_what_it_cannot_apply(pico, tmp_path):
    recipe = new_recipe(pico, "bfloat16")
    for number, step in enumerate(STEPS):
        recipe = recipe.extended(step, number, VERDICT)
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert recipe_file.load(path) == recipe == pickle.loads(pickle.dumps(recipe))
    content = json.loads(recipe.to_json())
    for change in (
        {"format": "other"},
        {"format_version": 2},
        {"noise_version": 2},
        {"steps": [{"direction": {"x": 1}}]},
        {"perturbed": None},
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(CheckpointError, match=r"recipe\.json"):
            recipe_file.load(path)


def test_the_model_card_names_base_task_gain_and_verdict(pico, tmp_path):
    place = committed(pico, tmp_path, "bfloat16")[-1]
    card = (place / "README.md").read_text()
    base_digest = checkpoint.folder_digest(pico, "bfloat16")
    for part in ("`owner/pico`", base_digest, "count to ten", "2 update(s)", "bfloat16"):
        assert part in card
    rows = [line for line in card.splitlines() if line.startswith(("| 1 ", "| 2 "))]
    assert len(rows) == 2
    for part in ("+50.0", f"{100 * VERDICT.lower:+.1f}", "30 / 0 of 60", "normal", "alpha = 0.05"):
        assert part in rows[0]
    assert Path(place / "recipe.json").stat().st_size < 4000


def test_a_committed_file_is_as_readable_as_a_new_file(tmp_path):
    source = pico_llama(tmp_path / "model")
    names = parameters.perturbed_names(parameters.read_specs(source), [".*"], [])
    recipe = Recipe("model", "0" * 64, "bfloat16", names, "a task", ())
    checkpoint.stage(source, tmp_path / "staged", recipe, [Direction({1: 0.1})])
    (tmp_path / "new").touch()
    wanted = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "staged").iterdir()} == {wanted}
