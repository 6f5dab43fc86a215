"""What is measured, one function a row. Ours and the other take turns; medians are compared."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from corp_ray import checkpoint, kernels, noise, weights
from corp_ray.consolidate import consolidate
from corp_ray.direction import Direction
from corp_ray.population import isotropic
from tests.bench.model import parameter_count

REPETITIONS = 5
SIGMA = 1e-3
QUANTILES, INVERSE_TEMPERATURES = (0.5, 0.7, 0.9), (0.5, 1, 2, 5, 10, 20, 50)
STEPS = (0.5, 1, 2, 4, 8, 16)
SWEPT_ELEMENTS = 800_000  # tensors are added to the swept subset until it holds as many


def seconds(task):
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def interleaved(ours, other, repetitions=REPETITIONS):
    """Median seconds of each, taking turns after one warm-up of both."""
    ours()
    other()
    pairs = [(seconds(ours), seconds(other)) for _ in range(repetitions)]
    return tuple(statistics.median(times) for times in zip(*pairs, strict=True))


def noise_values_per_s():
    """One thread fills a preallocated float32 array: noise version 1, or torch's normal_."""
    count, words = 1 << 23, noise.name_words("model.embed_tokens.weight")
    array, tensor = np.empty(count, np.float32), torch.empty(count)
    seeds, amplitudes = np.array([7], np.uint64), np.ones(1, np.float32)

    def ours():
        kernels.accumulate_range(seeds, amplitudes, *words, np.uint64(0), array, noise.table())

    torch.set_num_threads(1)
    mine, theirs = (count / s for s in interleaved(ours, tensor.normal_, 9))
    return {
        "name": "noise_values_per_s",
        "ours": mine,
        "other": theirs,
        "ratio": mine / theirs,
        "unit": "values/s",
    }, "fused fill of a preallocated array vs torch.Tensor.normal_, one thread"


def apply_candidate(pristine, threads):
    """Working weights = pristine + one seed at SIGMA, the whole model."""
    working = {name: tensor.clone() for name, tensor in pristine.items()}
    direction = Direction({123456789: SIGMA})
    torch.set_num_threads(threads)

    def ours():
        weights.apply(working, pristine, direction, threads=threads)

    def other():
        for name, base in pristine.items():
            working[name].copy_((base + SIGMA * torch.randn(base.shape)).to(base.dtype))

    mine, theirs = interleaved(ours, other)
    return {
        "name": "apply_candidate",
        "ours": mine,
        "other": theirs,
        "ratio": theirs / mine,
        "unit": "s",
    }, f"{parameter_count(pristine) / 1e6:.0f}M bf16 parameters vs base + sigma * torch.randn"


def default_directions(candidates=500):
    """The 21 directions of the default sweep, on random rewards."""
    drawn = isotropic(0, 0, candidates, (5e-4, 1e-3, 2e-3))
    directions = [Direction(candidate.terms) for candidate in drawn]
    rewards = np.random.default_rng(0).random(candidates)
    return {
        (q, beta): consolidate(
            directions, rewards, quantile=q, inverse_temperature=beta, rank=8
        ).mean
        for q in QUANTILES
        for beta in INVERSE_TEMPERATURES
    }


def swept_subset(pristine):
    subset = {}
    for name, tensor in pristine.items():
        if ".layers." in name and parameter_count(subset) < SWEPT_ELEMENTS:
            subset[name] = tensor
    return subset or pristine


def sweep_materialise(pristine, threads):
    """All 126 proposals of the default sweep, over a subset of tensors.

    The others regenerate noise for each proposal. They are timed on one proposal per quantile and
    scaled: proposals of one quantile have equally many seeds, so each costs the same.
    """
    base = swept_subset(pristine)
    directions = default_directions()
    sample = [directions[q, INVERSE_TEMPERATURES[3]] for q in QUANTILES]
    times = len(directions) * len(STEPS) / len(sample)
    working = {name: tensor.clone() for name, tensor in base.items()}
    torch.set_num_threads(threads)

    def ours():
        elements = []

        def sink(name, start, bits):
            elements.append(bits.size)

        weights.stream_sweep(base, list(directions.values()), STEPS, sink, threads=threads)
        if sum(elements) != parameter_count(base) * len(directions) * len(STEPS):
            raise RuntimeError("the sweep left elements out")

    def plain():
        for direction in sample:
            for name, tensor in base.items():
                acc = np.zeros(tensor.numel(), np.float32)
                for seed, amplitude in direction.terms:
                    acc += np.float32(amplitude) * noise.gaussian(seed, name, 0, acc.size)
                moved = tensor + torch.from_numpy(acc).view(tensor.shape)
                working[name].copy_(moved.to(tensor.dtype))

    def fused():
        for direction in sample:
            weights.apply(working, base, direction, threads=threads)

    what = f"126 proposals, {parameter_count(base) / 1e6:.2f}M parameters vs regenerating for each"
    for name, other, how in (
        ("sweep_materialise", plain, "noise array + acc += a * z"),
        ("sweep_materialise_fused", fused, "our own fused apply"),
    ):
        mine, of_sample = interleaved(ours, other, 3)
        theirs = of_sample * times
        row = {"name": name, "ours": mine, "other": theirs, "ratio": theirs / mine, "unit": "s"}
        yield row, f"{what} ({how}; timed on {len(sample)}, x {times:.0f})"


def actor_peak_memory(folder):
    """The other is what an actor must hold plus a tenth: a ratio above 1 keeps that promise."""
    digest = checkpoint.folder_digest(Path(folder), "bfloat16")
    command = [sys.executable, "-m", "tests.bench.memory", folder, digest]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    allowed = found["nominal"] * 1.1
    return {
        "name": "actor_peak_memory",
        "ours": found["measured"],
        "other": allowed,
        "ratio": allowed / found["measured"],
        "unit": "bytes",
    }, "engine peak beyond imports vs 1.1 x (pristine + working + one float32 direction)"
