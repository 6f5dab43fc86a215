"""Reward tables of any size for measuring, written without one Python object per reward."""

import numpy as np
import pyarrow as pa

from corp_ray.population import isotropic
from corp_ray.reward_parts import RewardParts
from corp_ray.reward_rows import SCHEMA, Identity
from corp_ray.storage import Storage

PART_ROWS = 4096  # what parts come to when candidates are appended one by one
IDENTITY = Identity(
    split_digests={"support": "s" * 64},
    decoding_digest="d" * 64,
    task_version="bench 1",
    engine="bench bfloat16",
)


def lists(values_NE, kind):
    offsets = np.arange(len(values_NE) + 1, dtype=np.int32) * values_NE.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values_NE.ravel(), kind))


def write_table(folder, candidates, examples, *, right_or_wrong, seed=0):
    """`candidates` rows of `examples` rewards, 0/1 or all different, in parts of PART_ROWS."""
    rng = np.random.default_rng(seed)
    storage = Storage.open(folder)
    storage.make()
    parts = RewardParts(storage)
    for start in range(0, candidates, PART_ROWS):
        stop = min(start + PART_ROWS, candidates)
        drawn = isotropic(seed, start, stop, (5e-4, 1e-3, 2e-3))
        rewards = rng.random((stop - start, examples))
        if right_or_wrong:
            rewards = (rewards < 0.3).astype(float)
        count = stop - start
        ((seeds, amplitudes),) = [zip(*(c.terms[0] for c in drawn), strict=True)]
        columns = {
            "round": np.zeros(count, np.int32),
            "candidate_id": [c.id for c in drawn],
            "kind": ["candidate"] * count,
            "sigma": [c.sigma for c in drawn],
            "step": np.ones(count),
            "seeds": lists(np.array(seeds, np.uint64)[:, None], pa.uint64()),
            "amplitudes": lists(np.array(amplitudes)[:, None], pa.float64()),
            "direction_digest": [c.digest for c in drawn],
            "center_digest": ["c" * 64] * count,
            "split": ["support"] * count,
            "mean_reward": np.mean(rewards, axis=1),
            "rewards": lists(rewards, pa.float64()),
            "outcomes": lists(np.zeros((count, examples), np.int8), pa.int8()),
            "formats": [[]] * count,
            "texts": [[]] * count,
            "generated_tokens": np.full(count, 8 * examples),
            "seconds": rng.random(count),
            **{name: [value] * count for name, value in IDENTITY.of("support").items()},
        }
        parts.write(pa.table(columns, schema=SCHEMA))
    return storage
