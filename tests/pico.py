"""A real but tiny Llama folder with a real byte-level tokenizer, made on the fly.

Everything that reads a Hugging Face folder can read it; a model is some 20,000 parameters and
takes a fraction of a second. The same arguments write the same bytes. It knows nothing: its
answers are noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def pico_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per byte (256) and three special ones; any text survives the round trip."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate([PAD, START, END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, START, END])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END
    )
    fast.chat_template = chat_template
    return fast


def pico_llama(
    folder: Path | str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tie: bool = True,
    shards: int = 1,
    hidden: int = 32,
    layers: int = 2,
    vocab: int = 264,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Write a Llama of `layers` layers and `vocab` (at least 259) embeddings into `folder`.

    `tie`: the output head is the embedding and is stored once. `shards` > 1: at least that many
    weight files with their index. Returns the folder.
    """
    folder = Path(folder)
    tokenizer = pico_tokenizer(chat_template=chat_template)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype)
    stored_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size=max(stored_bytes // shards, 1))
    tokenizer.save_pretrained(folder)
    return folder
