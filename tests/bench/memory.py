"""Peak memory of an actor that sweeps the steps of one direction; run as its own process.

Prints {"measured": bytes, "nominal": bytes}: the peak resident size beyond what the process holds
after importing and compiling, and the sum of pristine + working + float32 direction.
"""

import json
import sys
from pathlib import Path

import torch

from corp_ray import weights
from corp_ray.direction import Direction
from tests.bench.model import bfloat16_weights

STEPS = (0.5, 1, 2, 4, 8, 16)


def status_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def hold_and_sweep(pristine, working, held, direction):
    weights.materialise(held, direction)
    for step in STEPS:
        weights.apply_step(working, pristine, held, step)


def float32_like(tensors):
    return {name: torch.empty(t.shape, dtype=torch.float32) for name, t in tensors.items()}


def main(folder):
    direction = Direction(dict.fromkeys(range(4), 1e-3))
    tiny = {"w": torch.zeros(8, dtype=torch.bfloat16)}
    hold_and_sweep(tiny, {"w": tiny["w"].clone()}, float32_like(tiny), direction)
    before = status_bytes("VmRSS")
    pristine = bfloat16_weights(folder)
    working = {name: tensor.clone() for name, tensor in pristine.items()}
    held = float32_like(pristine)
    hold_and_sweep(pristine, working, held, direction)
    kept = (*pristine.values(), *working.values(), *held.values())
    nominal = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    print(json.dumps({"measured": status_bytes("VmHWM") - before, "nominal": nominal}))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
