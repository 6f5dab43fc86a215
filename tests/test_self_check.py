"""The self-check: the real engine passes and is left at the center; engines that lie are refused,
and the message says what is wrong. The liars are the real engine with one thing broken."""

from __future__ import annotations

import math
import random

import pytest
import torch

from corp_ray import checkpoint
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.engines.self_check import gap, kinds, self_check, unit
from corp_ray.engines.transformers import TransformersEngine
from corp_ray.errors import EngineError
from corp_ray.records import Center
from tests.pico import pico_llama

PROMPTS = [[{"role": "user", "content": text}] for text in ("1 + 1", "say 15, please")]
UNUSED_TOKEN = 0  # the padding, which no prompt contains


def settings(dtype="bfloat16", **changes):
    values = {
        "kind": "transformers",
        "dtype": dtype,
        "device": "cpu",
        "threads": 1,
        "chat_template": "auto",
        "max_new_tokens": 4,
        "batch_size": 4,
        "include": (".*",),
        "exclude": (),
    }
    return EngineSettings(**(values | changes))


def checked(kind, folder, dtype="bfloat16", **changes):
    """A loaded engine of a class, after its self-check."""
    center = Center(str(folder), checkpoint.folder_digest(folder, dtype))
    engine = kind(settings(dtype, **changes))
    engine.load(center)
    self_check(engine, center, settings(dtype, **changes), PROMPTS)
    assert engine.digest() == center.digest
    return engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders by whether the head is tied to the embedding."""
    root = tmp_path_factory.mktemp("pico")
    return {
        tie: pico_llama(root / f"tied {tie}", tie=tie, dtype=torch.float32) for tie in (True, False)
    }


@pytest.fixture(scope="module")
def folder(folders):
    return folders[True]


class AppliesNothing(TransformersEngine):
    def apply(self, direction, only=None):
        pass


class NeverWritesOneKind(TransformersEngine):
    def apply(self, direction, only=None):
        names = self._names if only is None else only
        super().apply(direction, [name for name in names if "mlp.down_proj" not in name])


class NeverWritesTheSecondBlock(TransformersEngine):
    def apply(self, direction, only=None):
        names = self._names if only is None else only
        super().apply(direction, [name for name in names if ".layers.1." not in name])


class NeverRestores(TransformersEngine):
    def apply(self, direction, only=None):
        if direction.terms:
            super().apply(direction, only)


class RestoresAllButOneRow(TransformersEngine):
    """The row belongs to a token that is in no prompt, so the answers of an untied model agree."""

    def apply(self, direction, only=None):
        row = self._working["model.embed_tokens.weight"][UNUSED_TOKEN]
        kept = row.clone()
        super().apply(direction, only)
        if not direction.terms:
            row.copy_(kept)


class AddsOtherNoise(TransformersEngine):
    def apply(self, direction, only=None):
        super().apply(Direction((seed + 1, amount) for seed, amount in direction.terms), only)


class Remembers(TransformersEngine):
    """What was applied last, for liars that make their answers depend on it."""

    applied = Direction()
    partly = False

    def apply(self, direction, only=None):
        self.applied, self.partly = direction, only is not None
        super().apply(direction, only)


class AnswersFromAStaleCache(TransformersEngine):
    first = None

    def next_token_logprobs(self, prompts, written=0):
        self.first = self.first or super().next_token_logprobs(prompts, written)
        return self.first


class AnswersAFullDirectionFromTheCenter(Remembers):
    base = None

    def next_token_logprobs(self, prompts, written=0):
        if self.base is None or self.partly:
            found = super().next_token_logprobs(prompts, written)
            self.base = self.base or found
            return found
        return self.base


class AnswersARestoredCenterFromTheLastDirection(Remembers):
    last = None

    def next_token_logprobs(self, prompts, written=0):
        if self.applied.terms or self.last is None:
            found = super().next_token_logprobs(prompts, written)
            self.last = found if self.applied.terms else None
            return found
        return self.last


class HoldsOneKindWithoutUsingIt(TransformersEngine):
    """Weights and digest are right; the answers come from a copy that lacks one kind."""

    def next_token_logprobs(self, prompts, written=0):
        ignored = [name for name in self._working if "mlp.down_proj" in name]
        kept = {name: self._working[name].clone() for name in ignored}
        self._restore(ignored)
        found = super().next_token_logprobs(prompts, written)
        for name, tensor in kept.items():
            self._working[name].copy_(tensor)
        return found


class SaysNaN(TransformersEngine):
    def next_token_logprobs(self, prompts, written=0):
        return [
            dict.fromkeys(one, math.nan) for one in super().next_token_logprobs(prompts, written)
        ]


class SaysNaNWhenPerturbed(TransformersEngine):
    def next_token_logprobs(self, prompts, written=0):
        found = super().next_token_logprobs(prompts, written)
        return [dict.fromkeys(one, math.nan) for one in found] if self._moved else found


class AnswersOnePromptOnly(TransformersEngine):
    def next_token_logprobs(self, prompts, written=0):
        return super().next_token_logprobs(prompts, written)[:1]


class HasNothingToSay(TransformersEngine):
    def next_token_logprobs(self, prompts, written=0):
        return [{} for _ in prompts]


def jittering(kind, seed):
    """The class, its answers differing a little from call to call, as on a busy GPU."""

    class Jitters(kind):
        draws = random.Random(seed)

        def next_token_logprobs(self, prompts, written=0):
            return [
                {token: value + self.draws.uniform(-1e-6, 1e-6) for token, value in one.items()}
                for one in super().next_token_logprobs(prompts, written)
            ]

    return Jitters


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("tie", [True, False])
def test_the_real_engine_passes_and_is_left_at_the_center(folders, tie, dtype):
    engine = checked(TransformersEngine, folders[tie], dtype)
    fresh = TransformersEngine(settings(dtype))
    fresh.load(Center(str(folders[tie]), engine.digest()))
    assert engine.next_token_logprobs(PROMPTS) == fresh.next_token_logprobs(PROMPTS)


def test_excluded_tensors_are_not_asked_for(folder):
    checked(TransformersEngine, folder, include=("model\\.layers",), exclude=(".*norm",))
    checked(NeverWritesOneKind, folder, exclude=(".*mlp\\.down_proj",))


KIND = r"model\.layers\.\*\.mlp\.down_proj\.weight was perturbed and no answer changed"
FIRST = r"(model\.embed_tokens|lm_head)\.weight was perturbed and no answer changed"
LIARS = [
    (AppliesNothing, FIRST),
    (NeverWritesOneKind, KIND),
    (HoldsOneKindWithoutUsingIt, KIND),
    (NeverWritesTheSecondBlock, r"model\.layers\.1\.\* was perturbed and no answer changed"),
    (AddsOtherNoise, "with a known direction this engine holds weights"),
    (NeverRestores, "center was restored, but its answers did not come back"),
    (AnswersARestoredCenterFromTheLastDirection, "restored, but its answers did not come back"),
    (AnswersFromAStaleCache, FIRST),
    (AnswersAFullDirectionFromTheCenter, "a known direction was applied and no answer changed"),
    (SaysNaN, "log-probabilities that are not finite numbers"),
    (SaysNaNWhenPerturbed, "log-probabilities that are not finite numbers"),
    (AnswersOnePromptOnly, "1 answers to 2 prompts"),
    (HasNothingToSay, "0 answers to 2 prompts"),
]


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(("liar", "message"), LIARS, ids=[liar.__name__ for liar, _ in LIARS])
def test_an_engine_that_lies_is_refused_by_what_is_wrong(folders, liar, message, tie):
    with pytest.raises(EngineError, match=message):
        checked(liar, folders[tie])


def test_a_center_restored_but_for_one_unused_row_is_refused(folders):
    with pytest.raises(EngineError, match="with the restored center this engine holds weights"):
        checked(RestoresAllButOneRow, folders[False])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_engine_whose_answers_jitter_slightly_passes(folder, dtype):
    for seed in range(10):
        checked(jittering(TransformersEngine, seed), folder, dtype)


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (HoldsOneKindWithoutUsingIt, KIND),
        (AnswersAFullDirectionFromTheCenter, "a known direction was applied and no answer changed"),
    ],
)
def test_jitter_does_not_hide_a_lie(folder, liar, message):
    for seed in range(10):
        with pytest.raises(EngineError, match=message):
            checked(jittering(liar, seed), folder)


def test_a_kind_is_a_name_without_numbers_and_its_members_in_the_first_block():
    experts = [f"model.layers.{i}.mlp.experts.{j}.w" for i in (0, 1, 10) for j in (0, 1)]
    others = ["lm_head.weight", "model.layers.0.norm", "model.layers.1.norm", "model.norm.weight"]
    assert kinds([*others, *experts]) == {
        "lm_head.weight": ("lm_head.weight",),
        "model.layers.*.norm": ("model.layers.0.norm",),
        "model.norm.weight": ("model.norm.weight",),
        "model.layers.*.mlp.experts.*.w": (experts[0], experts[1]),
    }


def test_a_kind_that_only_later_blocks_have_starts_there():
    names = ["m.0.dense.w", "m.1.experts.0.w", "m.1.experts.1.w", "m.2.experts.0.w"]
    assert kinds(names) == {"m.*.dense.w": (names[0],), "m.*.experts.*.w": (names[1], names[2])}


def test_a_unit_is_the_name_up_to_its_first_number():
    assert unit("model.layers.12.mlp.experts.3.w") == "model.layers.12."
    assert unit("model.layers.1.mlp.w") != unit("model.layers.12.mlp.w")
    assert unit("lm_head.weight") == ""


def test_the_gap_is_the_largest_difference_with_absent_tokens_at_the_lowest():
    assert gap([{1: -1.0, 2: -2.0}], [{1: -1.0, 2: -2.0}]) == 0.0
    assert gap([{1: -1.0}, {1: -2.0}], [{1: -1.25}, {1: -1.0}]) == 1.0
    assert gap([{1: -1.0, 2: -4.0}], [{1: -1.0, 3: -4.5}]) == 0.5
    assert gap([{1: -1.0, 2: -4.0}], [{1: -1.0, 3: -1.5}]) == 2.5
    assert gap([], []) == 0.0
    with pytest.raises(ValueError, match="zip"):
        gap([{1: 0.0}], [])
