"""vLLM and transformers are the same model: SmolLM2 in float32, base and five directions.

Each known trap is shown to be one: with the guard taken away the engine is wrong, and the
self-check says so.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest

from corp_ray import checkpoint, config, parameters, population
from corp_ray.consolidate import consolidate
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings, make_engine, vllm_worker
from corp_ray.engines.self_check import KNOWN, self_check
from corp_ray.errors import EngineError
from corp_ray.recenter import SearchState, advance
from corp_ray.records import Center
from corp_ray.tasks import make_task
from corp_ray.tasks.splits import make_splits
from tests import runs

MODEL = runs.ROOT / "models/SmolLM2-135M-Instruct"
ITEMS, NEW_TOKENS = 64, 24


def settings(kind):
    return EngineSettings(
        kind=kind,
        dtype="float32",
        device="cpu",
        threads=2,
        chat_template="auto",
        max_new_tokens=NEW_TOKENS,
        batch_size=ITEMS,
        include=(".*",),
        exclude=(),
        prompt_tokens=200,
    )


@pytest.fixture(scope="module")
def center():
    assert MODEL.is_dir(), f"{MODEL} is not prepared; `make test-vllm` does it"
    return Center(str(MODEL), checkpoint.folder_digest(MODEL, "float32", threads=2))


@pytest.fixture(scope="module")
def prompts():
    loaded = config.load(str(runs.ROOT / "conf/demo.yaml"))
    task = make_task(**config.task_settings(loaded.task))
    sizes = {"support": ITEMS, "validation": 1, "gate": 2, "test": 2}
    examples = make_splits(task, sizes, 0)["support"].examples
    return [task.prompt(example) for example in examples]


@pytest.fixture(scope="module")
def vllm_engine(center):
    engine = make_engine(settings("vllm"))
    engine.load(center)
    return engine


@pytest.fixture(scope="module")
def plain_engine(center):
    engine = make_engine(settings("transformers"))
    engine.load(center)
    yield engine
    gc.collect()


def directions():
    """The empty one; one seed at three sigmas; 20 seeds consolidated; one of a recentered round."""
    rewards = np.random.default_rng(0).random(20).tolist()
    candidates = population.isotropic(3, 0, 20, (0.002, 0.004))
    drawn = [Direction(candidate.terms) for candidate in candidates]
    merged = consolidate(drawn, rewards, quantile=0.5, inverse_temperature=5.0, rank=8).mean
    state = advance(
        SearchState(),
        directions=drawn,
        rewards=rewards,
        scores=rewards,
        drawn_sigmas=[candidate.sigma for candidate in candidates],
        listed_sigmas=[0.002, 0.004],
        accepted=True,
        rounds=2,
        rank=8,
    )
    (recentered,) = population.low_rank(
        3,
        1,
        0,
        1,
        sigma=state.sigma,
        isotropic_share=state.isotropic_share,
        subspace=state.subspace,
        rank=8,
    )
    return {
        "base": Direction(),
        "sigma .002": Direction({11: 0.002}),
        "sigma .004": Direction({12: 0.004}),
        "sigma .006": Direction({2**62 + 1: 0.006}),
        "consolidated": merged.scale(4.0),
        "recentered": Direction(recentered.terms),
    }


def widest(ours, theirs):
    """Largest difference of first-token log-probability over tokens that both engines list."""
    pairs = list(zip(ours, theirs, strict=True))
    assert min(len(one.keys() & other.keys()) for one, other in pairs) >= 15
    return max(
        abs(one[token] - other[token])
        for one, other in pairs
        for token in one.keys() & other.keys()
    )


@pytest.mark.parametrize("name", directions())
def test_greedy_answers_and_log_probabilities_are_those_of_transformers(
    vllm_engine, plain_engine, prompts, name
):
    direction = directions()[name]
    for engine in (vllm_engine, plain_engine):
        engine.apply(direction)
    ours, theirs = vllm_engine.generate(prompts), plain_engine.generate(prompts)
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    gap = widest(*(engine.next_token_logprobs(prompts) for engine in (vllm_engine, plain_engine)))
    assert same >= ITEMS - 1
    assert gap <= 1e-3  # measured: all 64 equal, within 5e-5
    assert len({generation.text for generation in ours}) > ITEMS / 4
    assert vllm_engine.digest() == plain_engine.digest()


def test_the_recentered_and_the_consolidated_direction_have_many_seeds():
    assert len(directions()["consolidated"].terms) >= 10
    assert len(directions()["recentered"].terms) > 10


def test_a_swept_step_has_the_tensors_and_answers_of_transformers(
    vllm_engine, plain_engine, prompts
):
    direction = directions()["consolidated"]
    found = []
    for engine in (vllm_engine, plain_engine):
        engine.hold(direction)
        engine.apply_step(0.75)
        found.append((engine.digest(), engine.generate(prompts[:16])))
        engine.release()
        engine.apply(Direction())
    assert found[0][0] == found[1][0]
    assert sum(a == b for a, b in zip(found[0][1], found[1][1], strict=True)) >= 15


def test_the_self_check_passes_and_leaves_the_center(vllm_engine, center, prompts):
    self_check(vllm_engine, center, settings("vllm"), prompts[:2])
    assert vllm_engine.digest() == center.digest


def test_linear_weights_are_packed_so_that_writing_to_parameters_changes_nothing(
    vllm_engine, center, prompts, monkeypatch
):
    """Trap: on the CPU build `named_parameters` holds empty tensors where linear weights were."""

    def write_parameters(worker, names, change, moved, digest=False):
        own = dict(worker.model_runner.get_model().named_parameters())
        total = checkpoint.Digest()
        tensors = worker._corp_tensors(names, change, moved, total if digest else None)
        for name, tensor in tensors:
            if name in own and own[name].shape == tensor.shape:
                own[name].data.copy_(tensor)
        worker.corp.change, worker.corp.moved = change, moved
        return total.hexdigest() if digest else ""

    (empty,) = vllm_engine._llm.apply_model(
        lambda model: [name for name, p in model.named_parameters() if p.numel() == 0]
    )
    assert len(empty) == 4 * 30  # qkv, o, gate-up, down of each layer
    linear = [s.name for s in parameters.read_specs(MODEL) if "_proj" in s.name]
    base = vllm_engine.next_token_logprobs(prompts[:4])
    monkeypatch.setattr(vllm_worker.CorpWorker, "_corp_reload", write_parameters)
    vllm_engine.apply(KNOWN, linear)
    assert vllm_engine.next_token_logprobs(prompts[:4]) == base
    with pytest.raises(EngineError, match=r"_proj\.weight was perturbed and no answer changed"):
        self_check(vllm_engine, center, settings("vllm"), prompts[:2])
    monkeypatch.undo()
    vllm_engine.apply(KNOWN)  # through every tensor, so that the next lines find the center whole
    vllm_engine.apply(Direction())
    assert vllm_engine.next_token_logprobs(prompts[:4]) == base


def test_a_tied_head_stays_behind_unless_it_is_refreshed(
    vllm_engine, plain_engine, center, prompts, monkeypatch
):
    """Trap: on the CPU build the tied output head keeps its packed copy of the old embedding."""
    direction = directions()["sigma .006"]
    plain_engine.apply(direction)
    expected = plain_engine.generate(prompts)
    monkeypatch.setattr(vllm_worker, "refresh_tied", lambda model: None)
    vllm_engine.apply(direction)
    stale = sum(a == b for a, b in zip(vllm_engine.generate(prompts), expected, strict=True))
    with pytest.raises(EngineError, match="output head did not follow"):
        vllm_engine._check_head(MODEL)
    monkeypatch.undo()
    vllm_engine.apply(direction)
    fresh = sum(a == b for a, b in zip(vllm_engine.generate(prompts), expected, strict=True))
    assert stale < ITEMS / 2  # measured: 17 of 64
    assert fresh >= ITEMS - 1
    vllm_engine.apply(Direction())
    vllm_engine._check_head(MODEL)


def test_a_loader_that_drops_a_block_is_found_out(vllm_engine, center, prompts, monkeypatch):
    """The digest is of what was handed over; that it arrived, the answers must show."""
    worker = type(vllm_engine._llm.llm_engine.model_executor.driver_worker.worker)
    reload_weights = worker.reload_weights

    def dropping(self, weights_iterator):
        kept = ((n, t) for n, t in weights_iterator if not n.startswith("model.layers.7."))
        reload_weights(self, weights_iterator=kept)

    monkeypatch.setattr(worker, "reload_weights", dropping)
    with pytest.raises(EngineError, match=r"model\.layers\.7\.\* was perturbed and no answer"):
        self_check(vllm_engine, center, settings("vllm"), prompts[:2])
    monkeypatch.undo()
    vllm_engine.apply(KNOWN)
    vllm_engine.apply(Direction())


def test_a_prefix_cache_of_the_old_weights_is_noticed_and_would_bend_the_answers(
    vllm_engine, prompts, monkeypatch
):
    """Trap: keys and values of the shared head were made by the weights before."""
    longer = [[{"role": "system", "content": "Add. " * 8}, *prompt[1:]] for prompt in prompts[:8]]
    direction = directions()["sigma .006"]
    vllm_engine.apply(direction)
    expected = vllm_engine.next_token_logprobs(longer)
    vllm_engine.apply(Direction())
    vllm_engine.next_token_logprobs(longer)  # fills the cache
    monkeypatch.setattr(type(vllm_engine._llm), "reset_prefix_cache", lambda llm: True)
    vllm_engine.apply(direction)
    with pytest.raises(EngineError, match="keys and values that other weights made"):
        vllm_engine.next_token_logprobs(longer)
    vllm_engine._cold = False  # the guard taken away
    assert vllm_engine.next_token_logprobs(longer) != expected
    monkeypatch.undo()
    vllm_engine.apply(direction)
    assert vllm_engine.next_token_logprobs(longer) == expected
    vllm_engine.apply(Direction())


def test_answers_of_a_candidate_do_not_depend_on_what_was_scored_before(vllm_engine, prompts):
    first, second = directions()["sigma .002"], directions()["sigma .004"]
    some = prompts[:16]
    vllm_engine.apply(first)
    answers = vllm_engine.generate(some)
    vllm_engine.apply(second)
    assert vllm_engine.generate(some[:5]) != answers[:5]
    vllm_engine.apply(first)
    assert vllm_engine.generate(some) == answers
