"""The transformers engine on a pico Llama: restore, sweeps, tied weights, batching, exact bytes."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corp_ray import checkpoint, parameters
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings, make_engine
from corp_ray.engines.prompts import end_tokens, render
from corp_ray.engines.transformers import generate_greedy, shared_head
from corp_ray.errors import EngineError
from corp_ray.recipe import Recipe
from corp_ray.records import Center
from tests.pico import pico_llama

PROMPTS = [
    [{"role": "system", "content": "Reply with a number."}, {"role": "user", "content": text}]
    for text in (
        "1 + 1",
        "12 + 30 is what, please?",
        "7",
        "say 15",
        "1 + 2",
        "a longer question " * 3,
    )
]


def settings(dtype="bfloat16", **changes):
    values = {
        "kind": "transformers",
        "dtype": dtype,
        "device": "cpu",
        "threads": 1,
        "chat_template": "auto",
        "max_new_tokens": 8,
        "batch_size": 4,
        "include": (".*",),
        "exclude": (),
    }
    return EngineSettings(**(values | changes))


def center(folder, dtype="bfloat16"):
    return Center(str(folder), checkpoint.folder_digest(folder, dtype))


def loaded(folder, dtype="bfloat16", **changes):
    engine = make_engine(settings(dtype, **changes))
    engine.load(center(folder, dtype))
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pico_llama(tmp_path_factory.mktemp("pico") / "model", hidden=64)


def test_the_center_is_restored_bit_for_bit_after_200_candidates(folder):
    engine = loaded(folder)
    before, answers = engine.digest(), engine.generate(PROMPTS)
    draws = random.Random(0)
    for number in range(200):
        terms = {draws.getrandbits(63): draws.gauss(0, 0.05) for _ in range(1 + number % 3)}
        engine.apply(Direction(terms))
        if number % 40 == 0:
            assert engine.digest() != before
    engine.apply(Direction())
    assert engine.digest() == before
    assert engine.generate(PROMPTS) == answers


def test_candidates_do_not_accumulate(folder):
    engine, fresh = loaded(folder), loaded(folder)
    engine.apply(Direction({1: 0.1}))
    engine.apply(Direction({2: 0.1}))
    fresh.apply(Direction({2: 0.1}))
    assert engine.digest() == fresh.digest()


def test_a_swept_step_of_one_is_the_exact_rule(folder):
    engine = loaded(folder)
    direction = Direction({5: 0.02, 9: -0.03, 2**62: 0.01})
    engine.hold(direction)
    engine.apply_step(1.0)
    swept = engine.digest()
    engine.release()
    engine.apply(direction)
    assert engine.digest() == swept


def test_every_perturbed_parameter_moves_and_excluded_ones_do_not(folder):
    engine = loaded(folder, include=("model\\.layers",), exclude=(".*norm",))
    specs = parameters.read_specs(folder)
    names = set(parameters.perturbed_names(specs, ["model\\.layers"], [".*norm"]))
    engine.apply(Direction({3: 0.1}))
    (base,) = engine._center.groups(engine._center.names)
    for name, tensor in base.items():
        assert torch.equal(engine._working[name], tensor) == (name not in names), name


def test_a_tied_head_follows_its_embedding(folder):
    engine = loaded(folder)
    engine.apply(Direction({3: 0.1}))
    model = engine._model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.equal(model.lm_head.weight, engine._working["model.embed_tokens.weight"])


@pytest.mark.parametrize("tie", [True, False])
def test_a_staged_folder_has_the_engines_bytes_and_plain_transformers_its_answers(tmp_path, tie):
    source = pico_llama(tmp_path / "model", hidden=64, tie=tie, seed=4)
    engine, direction = loaded(source), Direction({11: 0.05, 12: 0.02})
    engine.apply(direction)
    names = parameters.perturbed_names(parameters.read_specs(source), [".*"], [])
    recipe = Recipe("model", center(source).digest, "bfloat16", names, "a task", ())
    digest = checkpoint.stage(source, tmp_path / "staged", recipe, [direction])
    assert engine.digest() == digest
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "staged")
    assert plain.dtype == torch.bfloat16
    plain.set_attn_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "staged")
    ends = end_tokens(tmp_path / "staged", tokenizer)
    assert generate_greedy(
        plain, tokenizer, PROMPTS, max_new_tokens=8, batch_size=4, ends=ends
    ) == engine.generate(PROMPTS)


def test_batching_and_the_shared_head_change_no_answer_in_float32(tmp_path):
    source = pico_llama(tmp_path / "model", hidden=64, dtype=torch.float32, seed=2)
    engine = loaded(source, "float32", batch_size=4)
    model, tokenizer = engine._model, AutoTokenizer.from_pretrained(source)
    for prompt, ours in zip(PROMPTS, engine.generate(PROMPTS), strict=True):
        ids = torch.tensor(render(tokenizer, [prompt], "auto"))
        written = model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == ours.text


def test_a_models_own_generation_defaults_do_not_bend_greedy_answers(tmp_path):
    source = pico_llama(tmp_path / "model", hidden=64, seed=2)
    plain = loaded(source).generate(PROMPTS)
    path = source / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 5.0}))
    assert loaded(source).generate(PROMPTS) == plain


def test_the_shared_head_leaves_every_prompt_a_token_of_its_own():
    assert shared_head([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_head([[1, 2], [1, 2, 3]]) == 1
    assert shared_head([[7], [1]]) == 0
    assert shared_head([[1, 2, 3], [1, 2, 3]]) == 2


def test_answers_count_their_tokens_up_to_the_end(folder):
    for generation in loaded(folder).generate(PROMPTS):
        assert 1 <= generation.tokens <= 8


def test_a_model_without_template_gets_the_plain_text(tmp_path):
    source = pico_llama(tmp_path / "model", chat_template=None)
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = render(tokenizer, PROMPTS[:1], "auto")[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Reply with a number.\n\n1 + 1\n"
    with pytest.raises(EngineError, match="no chat template"):
        render(tokenizer, PROMPTS[:1], "always")


def test_other_weights_than_the_runs_are_refused(folder):
    engine = make_engine(settings())
    with pytest.raises(EngineError, match="this engine loaded weights"):
        engine.load(Center(str(folder), "0" * 64))


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(EngineError, match=r"engine\.options\.atention"):
        make_engine(settings(options={"atention": "sdpa"}))
