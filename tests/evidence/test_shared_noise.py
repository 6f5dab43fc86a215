"""The ablation's engine: tensors of one shape move alike, by the real rule under another name."""

import torch

from corp_ray import checkpoint, noise
from corp_ray.direction import Direction
from corp_ray.engines.self_check import self_check
from corp_ray.records import Center
from tests.pico import pico_llama
from tests.shared_noise import SharedNoiseEngine
from tests.test_self_check import PROMPTS, settings


def test_tensors_of_one_shape_share_their_noise_and_a_step_is_the_same_sum(tmp_path):
    folder = pico_llama(tmp_path / "model", dtype=torch.float32)
    center = Center(str(folder), checkpoint.folder_digest(folder, "float32"))
    engine = SharedNoiseEngine(settings("float32"))
    engine.load(center)
    self_check(engine, center, settings("float32"), PROMPTS)
    base = {name: tensor.clone() for name, tensor in engine._working.items()}
    direction = Direction({7: 0.25, 9: -0.5})
    engine.apply(direction)
    moved = {name: tensor.clone() for name, tensor in engine._working.items()}
    by_shape = {}
    for name, tensor in moved.items():
        z = sum(
            a
            * noise.gaussian(seed, f"shape {tuple(tensor.shape)}", 0, tensor.numel()).astype(float)
            for seed, a in direction.terms
        )
        change = (tensor - base[name]).double().flatten()
        assert torch.allclose(change, torch.from_numpy(z), atol=1e-6)
        by_shape.setdefault(tuple(tensor.shape), []).append(change)
    assert max(map(len, by_shape.values())) > 1
    engine.hold(direction)
    engine.apply_step(1.0)
    for name, tensor in engine._working.items():
        assert torch.allclose(tensor, moved[name], atol=1e-6)
    engine.release()
    engine.apply(Direction())
    assert engine.digest() == center.digest
