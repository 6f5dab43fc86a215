"""From messages to token ids, the same for every engine: chat template, end tokens, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from corp_ray.errors import EngineError
from corp_ray.records import Generation
from corp_ray.tasks import Messages


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


def end_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those of the model's generation settings and the tokenizer's."""
    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:  # no generation_config.json
        generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    configured = generation.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


def answer(
    tokenizer: PreTrainedTokenizerBase, written: Sequence[int], ends: Sequence[int]
) -> Generation:
    """The text up to the first end token, and the tokens it took (that one included)."""
    length = next((n + 1 for n, token in enumerate(written) if token in ends), len(written))
    return Generation(tokenizer.decode(written[:length], skip_special_tokens=True), length)


def longest(folder: Path, prompts: Sequence[Messages], template: str) -> int:
    """Tokens of the longest prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return max(len(ids) for ids in render(tokenizer, prompts, template))
