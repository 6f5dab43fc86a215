"""Peak memory of a real engine that sweeps the steps of one direction; run as its own process.

Prints {"measured": bytes, "nominal": bytes}: the peak resident size beyond what the process holds
after importing and compiling, from loading the center to the end of a sweep; and the sum of
pristine + working + float32 direction. No text is generated: activations are not in it.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import corp_ray.engines.transformers  # noqa: F401 (imported before memory is first read)
from corp_ray import checkpoint
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings, make_engine
from corp_ray.records import Center
from tests.pico import pico_llama

STEPS = (0.5, 1, 2, 4, 8, 16)
DIRECTION = Direction(dict.fromkeys(range(4), 1e-3))


def status_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def load_and_sweep(folder, digest):
    """An engine after loading a center, one exact candidate, and a swept direction."""
    settings = EngineSettings(
        kind="transformers",
        dtype="bfloat16",
        device="cpu",
        threads=1,
        chat_template="auto",
        max_new_tokens=8,
        batch_size=8,
        include=(".*",),
        exclude=(),
    )
    engine = make_engine(settings)
    engine.load(Center(str(folder), digest))
    engine.apply(DIRECTION)
    engine.hold(DIRECTION)
    for step in STEPS:
        engine.apply_step(step)
    return engine


def main(folder, digest):
    with tempfile.TemporaryDirectory() as scratch:
        tiny = pico_llama(Path(scratch) / "pico")
        load_and_sweep(tiny, checkpoint.folder_digest(tiny, "bfloat16"))
    before = status_bytes("VmRSS")
    engine = load_and_sweep(Path(folder), digest)
    peak = status_bytes("VmHWM") - before
    elements = sum(math.prod(engine._center.shape(name)) for name in engine._center.names)
    print(json.dumps({"measured": peak, "nominal": elements * (2 + 2 + 4)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
