"""Model folders: read tensors, digest them, stage an update, commit it by rename, rebuild one.

A staged folder is written beside its place and renamed into it, so a reader never sees half of
one. See docs/method.md, "Commit" and "Recipe".
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from corp_ray import parameters, weights
from corp_ray.direction import Direction
from corp_ray.errors import CheckpointError
from corp_ray.parameters import TensorSpec
from corp_ray.recipe import Recipe
from corp_ray.storage import Storage

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_OWN_FILES = {"README.md", "recipe.json", "model.safetensors.index.json"}
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx"}


def read_tensors(
    folder: Path, specs: Sequence[TensorSpec], dtype: str, file: str | None = None
) -> dict[str, torch.Tensor]:
    """Tensors of a folder (of one file of it) on the CPU, floats rounded to `dtype`."""
    tensors: dict[str, torch.Tensor] = {}
    for wanted in sorted({spec.file for spec in specs} if file is None else {file}):
        try:
            with safe_open(folder / wanted, framework="pt") as stored:
                for spec in specs:
                    if spec.file == wanted:
                        tensor = stored.get_tensor(spec.name)
                        tensors[spec.name] = tensor.to(DTYPES[dtype]) if spec.is_float else tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / wanted}: not readable ({error})") from error
    return tensors


class Digest:
    """SHA-256 (hex) of names, dtypes, shapes and bytes of tensors, ascending by name.

    Tensors may be added in any order and a few at a time; each is hashed on the CPU.
    """

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}

    def add(self, tensors: Mapping[str, torch.Tensor], *, threads: int = 1) -> None:
        def one(name: str) -> bytes:
            tensor = tensors[name].detach().to("cpu").contiguous()
            head = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
            return head + hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().data).digest()

        names = list(tensors)
        with ThreadPoolExecutor(threads) as pool:
            self._parts |= dict(zip(names, pool.map(one, names), strict=True))

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(self._parts[n] for n in sorted(self._parts))).hexdigest()


def tensors_digest(tensors: Mapping[str, torch.Tensor], *, threads: int = 1) -> str:
    """The `Digest` of tensors that are all at hand."""
    digest = Digest()
    digest.add(tensors, threads=threads)
    return digest.hexdigest()


def folder_digest(folder: Path, dtype: str, *, threads: int = 1) -> str:
    """`tensors_digest` of a folder's float tensors in `dtype`."""
    floats = [spec for spec in parameters.read_specs(folder) if spec.is_float]
    return tensors_digest(read_tensors(folder, floats, dtype), threads=threads)


def perturbed_digest(
    folder: Path, dtype: str, names: Sequence[str], direction: Direction, *, threads: int = 1
) -> str:
    """`tensors_digest` of a folder's float tensors with a direction added to the named ones.

    One file of weights is in memory at a time.
    """
    specs = [spec for spec in parameters.read_specs(folder) if spec.is_float]
    digest = Digest()
    for file in sorted({spec.file for spec in specs}):
        tensors = read_tensors(folder, specs, dtype, file)
        touched = {name: tensors[name] for name in names if name in tensors}
        weights.apply(touched, touched, direction, threads=threads)
        digest.add(tensors, threads=threads)
    return digest.hexdigest()


def _copy_small_files(source: Path, target: Path, dtype: str) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix not in _WEIGHT_SUFFIXES and path.name not in _OWN_FILES:
            shutil.copyfile(path, target / path.name)
    config = parameters.read_json(source / "config.json")
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (target / "config.json").write_text(text, "utf-8")


def stage(
    source: Path,
    target: Path,
    recipe: Recipe,
    steps: Sequence[Direction],
    *,
    threads: int = 1,
) -> str:
    """Write the weights of `source` + steps to the folder `target`; returns the tensors' digest.

    Each step is applied to what the one before left, one file of weights at a time in memory; all
    other files are taken over, config.json with the dtype set. A `target` left by an interrupted
    run is replaced. Errors: CheckpointError for a perturbed tensor that `source` lacks.
    """
    specs = parameters.read_specs(source)
    names = set(recipe.perturbed)
    missing = names - {spec.name for spec in specs}
    if missing:
        raise CheckpointError(f"{source}: no tensor {min(missing)!r}, which the recipe perturbs")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _copy_small_files(source, target, recipe.dtype)
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for file in sorted({spec.file for spec in specs}):
        tensors = read_tensors(source, specs, recipe.dtype, file)
        touched = {name: tensor for name, tensor in tensors.items() if name in names}
        for step in steps:
            weights.apply(touched, touched, step, threads=threads)
        save_file(tensors, target / file, metadata={"format": "pt"})
        # safetensors makes its files private; a committed folder is as readable as its other files.
        shutil.copymode(target / "config.json", target / file)
        weight_map |= dict.fromkeys(tensors, file)
        total_bytes += sum(t.numel() * t.element_size() for t in tensors.values())
    if len(set(weight_map.values())) > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (target / "model.safetensors.index.json").write_text(text, "utf-8")
    return folder_digest(target, recipe.dtype, threads=threads)


def is_committed(place: Storage) -> bool:
    """Whether a committed folder is there. Elsewhere than locally its recipe, written last, says so."""
    return place.exists("" if place.local is not None else "recipe.json")


def commit(staged: Path, final: Path | Storage, recipe: Recipe) -> None:
    """Complete a staged folder with its recipe and model card and give it its place.

    Everything is on disk before the name exists; on a storage without rename recipe.json is
    written last, and a folder without it is replaced. Errors: CheckpointError when the place is
    taken; StorageError.
    """
    place = Storage.open(final) if isinstance(final, Path) else final
    if is_committed(place):
        raise CheckpointError(f"{place}: exists already; nothing is overwritten")
    (staged / "README.md").write_text(recipe.model_card(), "utf-8")
    (staged / "recipe.json").write_text(recipe.to_json(), "utf-8")
    if place.local is None:
        place.upload(staged, "", "recipe.json")
        return
    place.local.parent.mkdir(parents=True, exist_ok=True)
    for path in staged.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    os.rename(staged, place.local)


def rebuild(recipe: Recipe, base: Path, target: Path, *, threads: int = 1) -> str:
    """Rebuild a committed folder from its base, byte for byte; returns the tensors' digest.

    Errors: CheckpointError when `base` is not the recipe's base or `target` exists.
    """
    if target.exists():
        raise CheckpointError(f"{target}: exists already; nothing is overwritten")
    found = folder_digest(base, recipe.dtype, threads=threads)
    if found != recipe.base_digest:
        raise CheckpointError(
            f"{base}: weights digest {found[:12]}..., the recipe was made on {recipe.base_digest[:12]}..."
        )
    staged = target.with_name(f".{target.name}.staged")
    digest = stage(base, staged, recipe, [s.direction for s in recipe.steps], threads=threads)
    commit(staged, target, recipe)
    return digest
