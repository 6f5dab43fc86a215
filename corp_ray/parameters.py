"""Which tensors a model folder holds, by canonical Hugging Face name, and which are perturbed.

Reads safetensors headers only; no weights, no torch. See docs/method.md, "Which tensors".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from corp_ray.errors import CheckpointError

FLOATS = {"BF16", "F16", "F32"}
_DECIDING = (".safetensors", ".json", ".model", ".txt", ".jinja")
_DEMO = "models/SmolLM2-135M-Instruct"
_DOWNLOAD = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class TensorSpec:
    """A stored tensor: canonical name, safetensors dtype, full shape, file within the folder."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


def resolve(path: str) -> Path:
    """The local folder of a model path or hub id. Errors: CheckpointError naming model.path."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
        raise CheckpointError(f"model.path={path!r}: no such folder, and not an id like owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=_DOWNLOAD))
    except Exception as error:  # the hub client raises many kinds; each means the same here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if path == _DEMO:
            reason = f"`make {path}` prepares it"
        raise CheckpointError(
            f"model.path={path!r}: no such folder, and not available from the hub ({reason})"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _weight_files(folder: Path) -> list[str]:
    """The files that the index names; without an index the one usual file, or all there are."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return sorted(set(read_json(index).get("weight_map", {}).values()))
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"]
    return sorted(file.name for file in folder.glob("*.safetensors"))


def read_specs(folder: Path) -> tuple[TensorSpec, ...]:
    """Every tensor of a model folder, ascending by name.

    A tied output head that is stored a second time is left out: it follows the embedding. Errors:
    CheckpointError for a folder without config or weights, a broken file, or quantized weights.
    """
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        raise CheckpointError(f"{folder}: quantized weights; perturbation needs float weights")
    files = _weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: no *.safetensors file, so no weights to perturb")
    specs: dict[str, TensorSpec] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="numpy") as stored:
                for name in stored.keys():  # noqa: SIM118 (not a dict)
                    view = stored.get_slice(name)
                    shape = tuple(view.get_shape())
                    specs[name] = TensorSpec(name, view.get_dtype(), shape, file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / file}: not a safetensors file ({error})") from error
    text_config = config.get("text_config", config)
    if text_config.get("tie_word_embeddings") and len(specs) > 1:
        specs.pop("lm_head.weight", None)
    return tuple(specs[name] for name in sorted(specs))


def perturbed_names(
    specs: Sequence[TensorSpec], include: Sequence[str], exclude: Sequence[str]
) -> tuple[str, ...]:
    """Names of float tensors that some `include` matches (from the start) and no `exclude` does.

    Errors: CheckpointError when nothing is left.
    """
    names = tuple(
        spec.name
        for spec in specs
        if spec.is_float
        and any(re.match(pattern, spec.name) for pattern in include)
        and not any(re.match(pattern, spec.name) for pattern in exclude)
    )
    if not names:
        raise CheckpointError(
            f"perturb.include={list(include)}, perturb.exclude={list(exclude)}: no tensor is left; "
            "patterns match from the start of names"
            + next((f" such as {spec.name}" for spec in specs if spec.is_float), "")
        )
    return names


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_digest(folder: Path) -> str:
    """SHA-256 (hex) of what decides a model's answers: weights, configuration and tokenizer files."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _DECIDING and path.is_file() and path.name != "recipe.json":
            total.update(f"{path.name} {file_digest(path)}\n".encode())
    return total.hexdigest()
