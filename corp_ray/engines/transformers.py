"""The default engine: a transformers causal language model, on CPU or CUDA.

Greedy generation in length-sorted batches; the head that all prompts share is run once per
candidate. Leaves out sampling, tensor parallelism and noise made on the GPU: on CUDA, weights are
perturbed on the CPU and copied over. See docs/method.md, "Engines".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
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

from corp_ray import checkpoint, parameters, weights
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.errors import EngineError
from corp_ray.records import Center, Generation
from corp_ray.tasks import Messages

_SHARE_FROM = 8  # tokens in common from which running the shared head once pays


def render(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], template: str
) -> list[list[int]]:
    """Token ids per prompt: by the chat template, or the messages' texts when it is not used.

    `template`: "auto" uses a template when the tokenizer has one, "always" needs one, "never".
    """
    if template == "always" and not tokenizer.chat_template:
        raise EngineError("model.chat_template='always', but the tokenizer has no chat template")
    if template != "never" and tokenizer.chat_template:
        texts = [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            for messages in prompts
        ]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    joined = ("\n\n".join(m["content"] for m in messages) + "\n" for messages in prompts)
    return [tokenizer(text)["input_ids"] for text in joined]


def shared_head(ids: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    limit = min(len(row) for row in ids) - 1
    first = ids[0]
    length = 0
    while length < limit and all(row[length] == first[length] for row in ids):
        length += 1
    return length


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    *,
    max_new_tokens: int,
    batch_size: int,
    template: str = "auto",
) -> list[Generation]:
    """Greedy answers of a model to chat prompts, in the order of the prompts.

    The model's own generation defaults are dropped but for its end tokens. Prompts are batched by
    length, shorter ones padded between the shared head and their own tokens, so the composition of
    batches depends on the prompts alone.
    """
    ids = render(tokenizer, prompts, template)
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    head = shared_head(ids) if len(ids) > 1 else 0
    head = head if head >= _SHARE_FROM else 0
    ends = _end_tokens(model, tokenizer)
    # A model's own defaults (repetition penalty, forbidden tokens) would fill every unset field.
    model.generation_config = GenerationConfig(eos_token_id=ends or None)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=pad
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
            length = next((n + 1 for n, t in enumerate(written) if t in ends), len(written))
            text = tokenizer.decode(written[:length], skip_special_tokens=True)
            results[i] = Generation(text, length)
    return results


class TransformersEngine:
    """Engine protocol over AutoModelForCausalLM.

    Memory: the pristine center (CPU, in the run's dtype), the working weights (on the device) and,
    between `hold` and `release`, one float32 direction. `options.attention` names the attention
    implementation.
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
        self._center: dict[str, torch.Tensor] = {}
        self._working: dict[str, torch.Tensor] = {}
        self._names: tuple[str, ...] = ()
        self._held: dict[str, torch.Tensor] = {}

    def load(self, center: Center) -> None:
        folder = Path(center.path)
        specs = [spec for spec in parameters.read_specs(folder) if spec.is_float]
        self._center = checkpoint.read_tensors(folder, specs, self._settings.dtype)
        if self._model is None:
            self._load_model(folder)
        unknown = [name for name in self._center if name not in self._working]
        if unknown:
            raise EngineError(f"{folder}: the model class has no parameter for {unknown[0]!r}")
        self._names = parameters.perturbed_names(
            specs, self._settings.include, self._settings.exclude
        )
        for name, tensor in self._center.items():
            self._working[name].copy_(tensor)
        found = self.digest()
        if found != center.digest:
            raise EngineError(
                f"{folder}: this engine loaded weights {found[:12]}..., the run works on "
                f"{center.digest[:12]}..."
            )

    def _load_model(self, folder: Path) -> None:
        dtype = checkpoint.DTYPES[self._settings.dtype]
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=self._attention
        ).eval()
        # Parameters keep requires_grad: without it torch's CPU linear takes a path that repacks
        # the weights on every call, three times slower here. inference_mode keeps gradients off.
        self._model = model.to(self._device)
        state = dict(self._model.named_parameters(remove_duplicate=False))
        state |= dict(self._model.named_buffers(remove_duplicate=False))
        prefix = f"{self._model.base_model_prefix}."
        stored = {name: name if name in state else prefix + name for name in self._center}
        self._working = {name: state[own].data for name, own in stored.items() if own in state}

    def _perturb(self, write: Any) -> None:
        """Call write(out, base) over the perturbed tensors; on a GPU through one CPU tensor each."""
        base = {name: self._center[name] for name in self._names}
        if self._device.type == "cpu":
            write({name: self._working[name] for name in self._names}, base)
            return
        for name, tensor in base.items():
            out = torch.empty_like(tensor)
            write({name: out}, {name: tensor})
            self._working[name].copy_(out)

    def apply(self, direction: Direction) -> None:
        threads = self._settings.threads
        self._perturb(lambda out, base: weights.apply(out, base, direction, threads=threads))

    def hold(self, direction: Direction) -> None:
        self._held = self._held or {
            name: torch.empty(self._center[name].shape, dtype=torch.float32) for name in self._names
        }
        weights.materialise(self._held, direction, threads=self._settings.threads)

    def apply_step(self, step: float) -> None:
        threads = self._settings.threads
        self._perturb(
            lambda out, base: weights.apply_step(out, base, self._held, step, threads=threads)
        )

    def release(self) -> None:
        self._held = {}

    def generate(self, prompts: Sequence[Messages]) -> list[Generation]:
        assert self._model is not None, "generate before load"
        return generate_greedy(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens=self._settings.max_new_tokens,
            batch_size=self._settings.batch_size,
            template=self._settings.chat_template,
        )

    def digest(self) -> str:
        working = {name: self._working[name] for name in self._center}
        return checkpoint.tensors_digest(working, threads=self._settings.threads)

    def describe(self) -> str:
        return f"transformers {self._settings.dtype} {self._device.type} {self._attention}"
