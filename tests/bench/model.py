"""The weights that are measured: a model folder, or random ones of SmolLM2-135M's shapes."""

from pathlib import Path

import torch

from corp_ray import checkpoint, parameters

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS = 49152, 576, 1536, 30
KEYS = 3 * 64  # key-value heads x head dimension; 9 x 64 query heads make HIDDEN


def smollm2_shapes():
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}input_layernorm.weight": (HIDDEN,),
            f"{layer}post_attention_layernorm.weight": (HIDDEN,),
            f"{layer}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}self_attn.k_proj.weight": (KEYS, HIDDEN),
            f"{layer}self_attn.v_proj.weight": (KEYS, HIDDEN),
            f"{layer}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{layer}mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{layer}mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return shapes


def bfloat16_weights(folder):
    """{name: bfloat16 tensor} of the folder's float tensors; random ones without a folder."""
    if folder:
        specs = [spec for spec in parameters.read_specs(Path(folder)) if spec.is_float]
        return checkpoint.read_tensors(Path(folder), specs, "bfloat16")
    torch.manual_seed(0)
    return {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
        for name, shape in smollm2_shapes().items()
    }


def parameter_count(tensors):
    return sum(tensor.numel() for tensor in tensors.values())
