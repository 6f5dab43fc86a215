"""The default engine: a transformers causal language model, on CPU or CUDA.

Greedy generation in length-sorted batches; the head that all prompts share is run once per
candidate. Leaves out sampling and tensor parallelism. See docs/method.md, "Engines".
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from corp_ray import checkpoint, parameters
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.engines.prompts import answer, end_tokens, render
from corp_ray.errors import EngineError
from corp_ray.pristine import Change, Pristine, choose_place
from corp_ray.records import Center, Generation
from corp_ray.tasks import Messages

_SHARE_FROM = 8  # tokens in common from which running the shared head once pays


def shared_head(ids: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    limit = min(len(row) for row in ids) - 1
    first = ids[0]
    length = 0
    while length < limit and all(row[length] == first[length] for row in ids):
        length += 1
    return length


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    max_new_tokens: int,
    batch_size: int,
    ends: Sequence[int],
    template: str = "auto",
) -> list[Generation]:
    """Greedy answers of a model to chat prompts, in the order of the prompts.

    An answer stops at one of the tokens `ends`; other generation defaults of the model are dropped.
    Prompts are batched by length, shorter ones padded between the shared head and their own tokens,
    so the composition of batches depends on the prompts alone.
    """
    ids = render(tokenizer, prompts, template)
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    head = shared_head(ids) if len(ids) > 1 else 0
    head = head if head >= _SHARE_FROM else 0
    stop = list(ends) or None
    # A model's own defaults (repetition penalty, forbidden tokens) would fill every unset field.
    model.generation_config = GenerationConfig(eos_token_id=stop)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stop or [0])[0]
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop, pad_token_id=pad
    )
    kept: DynamicCache | None = None
    if head:
        start = torch.tensor([ids[0][:head]], device=model.device)
        cache = model(start, use_cache=True, logits_to_keep=1).past_key_values
        kept = cache if type(cache) is DynamicCache else None
    results: list[Generation] = [Generation("", 0)] * len(ids)
    for low in range(0, len(order), batch_size):
        members = order[low : low + batch_size]
        width = max(len(ids[i]) for i in members)
        tokens_BT = torch.full((len(members), width), pad, dtype=torch.long)
        mask_BT = torch.zeros((len(members), width), dtype=torch.long)
        for row, i in enumerate(members):
            own = len(ids[i]) - head
            tokens_BT[row, :head] = torch.tensor(ids[i][:head])
            tokens_BT[row, width - own :] = torch.tensor(ids[i][head:])
            mask_BT[row, :head] = 1
            mask_BT[row, width - own :] = 1
        extra: dict[str, Any] = {}
        if kept is not None:
            extra["past_key_values"] = copy.deepcopy(kept)
            extra["past_key_values"].batch_repeat_interleave(len(members))
        output_BT = model.generate(
            tokens_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            generation_config=settings,
            **extra,
        )
        for i, written in zip(members, output_BT[:, width:].tolist(), strict=True):
            results[i] = answer(tokenizer, written, ends)
    return results


class TransformersEngine:
    """Engine protocol over AutoModelForCausalLM.

    Memory: the pristine center where `engine.pristine` puts it, the working weights on the device
    and, between `hold` and `release`, one float32 direction beside the center.
    `options.attention` names the attention implementation.
    """

    def __init__(self, settings: EngineSettings):
        wanted = settings.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cuda" and not torch.cuda.is_available():
            raise EngineError("engine.device='cuda', but torch sees no GPU in this process")
        unknown = set(settings.options) - {"attention"}
        if unknown:
            raise EngineError(f"engine.options.{min(unknown)}: the only option here is attention")
        torch.set_num_threads(settings.threads)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._settings = settings
        self._device = torch.device(wanted)
        # On short prompts eager attention is a third faster than sdpa on a CPU.
        self._attention = settings.options.get("attention", "eager" if wanted == "cpu" else "sdpa")
        self._model: PreTrainedModel | None = None
        self._working: dict[str, torch.Tensor] = {}
        self._names: tuple[str, ...] = ()  # of perturbed tensors
        self._moved: frozenset[str] = frozenset()  # those that are not the center's now

    def load(self, center: Center) -> None:
        folder, settings = Path(center.path), self._settings
        specs = [spec for spec in parameters.read_specs(folder) if spec.is_float]
        elements = sum(spec.size for spec in specs)
        place = choose_place(settings.pristine, elements, settings.dtype, self._device, ranks=1)
        self.__dict__.pop("_center", None)  # never two centers in memory
        self._center = Pristine(folder, settings.dtype, self._device, place, settings.threads)
        if self._model is None:
            self._load_model(folder)
        unknown = [name for name in self._center.names if name not in self._working]
        if unknown:
            raise EngineError(f"{folder}: the model class has no parameter for {unknown[0]!r}")
        self._names = parameters.perturbed_names(specs, settings.include, settings.exclude)
        self._restore(self._center.names)
        self._moved = frozenset()
        found = self.digest()
        if found != center.digest:
            raise EngineError(
                f"{folder}: this engine loaded weights {found[:12]}..., the run works on "
                f"{center.digest[:12]}..."
            )

    def _load_model(self, folder: Path) -> None:
        dtype = checkpoint.DTYPES[self._settings.dtype]
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._ends = end_tokens(folder, self._tokenizer)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=self._attention
        ).eval()
        # Parameters keep requires_grad: without it torch's CPU linear takes a path that repacks
        # the weights on every call, three times slower here. inference_mode keeps gradients off.
        self._model = model.to(self._device)
        state = dict(self._model.named_parameters(remove_duplicate=False))
        state |= dict(self._model.named_buffers(remove_duplicate=False))
        prefix = f"{self._model.base_model_prefix}."
        stored = {name: name if name in state else prefix + name for name in self._center.names}
        self._working = {name: state[own].data for name, own in stored.items() if own in state}

    def _restore(self, names: Collection[str]) -> None:
        for base in self._center.groups(names):
            for name, tensor in base.items():
                self._working[name].copy_(tensor)

    def _set(self, change: Change, moved: Sequence[str]) -> None:
        self._restore([name for name in self._names if name in self._moved - set(moved)])
        self._moved = frozenset(moved)
        for base in self._center.groups(moved):
            self._center.write({name: self._working[name] for name in base}, base, change)

    def apply(self, direction: Direction, only: Sequence[str] | None = None) -> None:
        wanted = set(self._names if only is None else only)
        moved = [name for name in self._names if name in wanted]
        self._set(Change(direction), moved if direction.terms else ())

    def hold(self, direction: Direction) -> None:
        self._center.hold(direction, self._names)

    def apply_step(self, step: float) -> None:
        self._set(Change(step=step), self._names)

    def release(self) -> None:
        self._center.release()

    def generate(self, prompts: Sequence[Messages]) -> list[Generation]:
        assert self._model is not None, "generate before load"
        return generate_greedy(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens=self._settings.max_new_tokens,
            batch_size=self._settings.batch_size,
            ends=self._ends,
            template=self._settings.chat_template,
        )

    @torch.inference_mode()
    def next_token_logprobs(
        self, prompts: Sequence[Messages], written: int = 0
    ) -> list[dict[int, float]]:
        assert self._model is not None, "next_token_logprobs before load"
        found = []
        for ids in render(self._tokenizer, prompts, self._settings.chat_template):
            tokens = list(ids)
            for step in range(written + 1):
                logits_1TV = self._model(torch.tensor([tokens], device=self._device)).logits
                logprobs_V = torch.log_softmax(logits_1TV[0, -1].float(), dim=-1)
                if step < written:
                    tokens.append(int(logprobs_V.argmax()))
            top = logprobs_V.topk(min(20, logprobs_V.numel()))
            found.append(dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
        return found

    def digest(self) -> str:
        working = {name: self._working[name] for name in self._center.names}
        return checkpoint.tensors_digest(working, threads=self._settings.threads)

    def describe(self) -> str:
        return f"transformers {self._settings.dtype} {self._device.type} {self._attention}"
