"""Model folders outside a run: from a GGUF file, and from base + recipe."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from pathlib import Path

from corp_ray import parameters
from corp_ray import recipe as recipe_file
from corp_ray.errors import CheckpointError, ConfigError
from corp_ray.storage import Storage, is_url

log = logging.getLogger("corp_ray")


def find_gguf(source: str) -> Path:
    """The GGUF file that `source` names: a path, or "package:NAME" for the one inside a package.

    Errors: ConfigError when there is none, or several.
    """
    if not source.startswith("package:"):
        path = Path(source).expanduser()
        if not path.is_file() or path.suffix != ".gguf":
            raise ConfigError(f"source={source!r}: expected an existing .gguf file or package:NAME")
        return path
    spec = importlib.util.find_spec(source.removeprefix("package:"))
    roots = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for root in roots for path in Path(root).rglob("*.gguf"))
    if len(found) != 1:
        raise ConfigError(
            f"source={source!r}: expected one .gguf in the package, found {len(found)}"
        )
    return found[0]


def prepare_model(source: str, output: str, dtype: str = "bfloat16") -> None:
    """Write the model and tokenizer of a GGUF file as a Hugging Face folder in `dtype`.

    Errors: ConfigError for a bad source or dtype; CheckpointError when `output` exists.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from corp_ray.checkpoint import DTYPES

    gguf, target = find_gguf(source), Path(output).expanduser()
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    if target.exists():
        raise CheckpointError(f"output={output!r}: exists already; nothing is overwritten")
    transformers_logging.disable_progress_bar()
    log.info("reading %s", gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # A model that came from GGUF refuses to be saved; a plain one with the same state does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    staged = target.with_name(f".{target.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.parent.mkdir(parents=True, exist_ok=True)
    plain.to(DTYPES[dtype]).save_pretrained(staged)
    tokenizer.save_pretrained(staged)
    for path in staged.glob("*.safetensors"):
        shutil.copymode(staged / "config.json", path)
    os.rename(staged, target)
    log.info("%s: %s, %s", target, type(plain).__name__, dtype)


def read_recipe(path: str, setting: str = "recipe") -> recipe_file.Recipe:
    """The recipe in a file, or in a committed folder, at a path or URL.

    Errors: CheckpointError when there is none; ConfigError, StorageError for a URL.
    """
    if not is_url(path):
        local = Path(path).expanduser()
        return recipe_file.load(local / "recipe.json" if local.is_dir() else local)
    place = Storage.open(path, setting)
    if place.name.endswith(".json"):
        return recipe_file.read(place.parent, place.name)
    return recipe_file.read(place)


def export(recipe_path: str, output: str, base: str | None = None, threads: int = 1) -> str:
    """Rebuild a committed folder from its recipe; returns the digest of its tensors.

    Errors: CheckpointError for an unusable recipe, another base, or an existing output.
    """
    from corp_ray.checkpoint import rebuild

    loaded = read_recipe(recipe_path)
    folder = parameters.resolve(base or loaded.base)
    return rebuild(loaded, folder, Path(output).expanduser(), threads=threads)
