"""The vLLM engine, on GPUs or with vLLM's CPU build; tensor-parallel where the setting says so.

The scheduler runs inside the actor's process and has all requests before its first step, so what is
batched together depends on weights and prompts alone, and no process outlives the actor. Weights
are changed through the worker extension of vllm_worker.py. vLLM is imported when an engine is made,
never by importing this module.

CUDA graphs stay on (`enforce_eager` false) since the update is in place: `reload_weights` copies
the processed tensors into the storage that the graphs were captured with. On a CPU the packed
weights are new objects after each update, so there the model always runs eagerly. See
docs/method.md, "Engines".
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from corp_ray import checkpoint, noise, parameters, weights
from corp_ray.direction import Direction
from corp_ray.engines import EngineSettings
from corp_ray.engines.prompts import answer, end_tokens, render
from corp_ray.engines.self_check import KNOWN
from corp_ray.engines.vllm_package import (
    import_vllm,
    known_options,
    release,
    without_llvmlite,
)
from corp_ray.errors import ConfigError, EngineError, EngineLostError
from corp_ray.pristine import choose_place
from corp_ray.records import Center, Generation
from corp_ray.tasks import Messages

log = logging.getLogger(__name__)

# Arguments of vllm.LLM that the engine sets itself.
_OWN = {
    "model",
    "tokenizer",
    "skip_tokenizer_init",
    "dtype",
    "quantization",
    "tensor_parallel_size",
    "seed",
    "max_num_seqs",
    "distributed_executor_backend",
    "enable_prefix_caching",
    "worker_extension_cls",
    "worker_cls",
    "generation_config",
    "load_format",
    "cpu_offload_gb",
    "offload_backend",
    "offload_group_size",
    "offload_num_in_group",
    "offload_params",
    "offload_prefetch_step",
    "pipeline_parallel_size",
    "data_parallel_size",
    "speculative_config",
    "enable_lora",
    "hf_overrides",
    "max_logprobs",
}
_GPU_SHARE = 0.9  # of a GPU's memory, for all that the engine keeps there
_CPU_CACHE_BYTES = 1 << 30  # key-value cache on a CPU, where vLLM would take most of the memory
_EMBEDDING = re.compile(r"(^|.*\.)(embed_tokens|wte|embed_in|word_embeddings)\.weight$")
_HEAD = re.compile(r"(^|.*\.)(lm_head|embed_out)\.weight$")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class VllmEngine:
    """Engine protocol over `vllm.LLM`.

    `options` are further arguments of `vllm.LLM` (gpu_memory_utilization, max_model_len, ...).
    Memory: what vLLM takes, and in each rank the center and, during a sweep, a float32 direction,
    where `engine.pristine` puts them.
    """

    def __init__(self, settings: EngineSettings):
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # for the ranks' processes
        torch.set_num_threads(settings.threads)
        transformers_logging.set_verbosity_error()
        self._vllm = import_vllm()
        from vllm.platforms import current_platform

        self._platform = current_platform.device_type
        if settings.device not in ("auto", self._platform):
            raise ConfigError(
                f"engine.device={settings.device!r}: this vLLM runs on {self._platform!r}"
            )
        for name in settings.options:
            if name in _OWN:
                raise ConfigError(f"engine.options.{name}: not to be set; see engine, decoding")
            if name not in known_options():
                raise ConfigError(
                    f"engine.options.{name}: no argument of vLLM {self._vllm.__version__}"
                )
        if self._platform == "cpu" and settings.options.get("enforce_eager") is False:
            raise ConfigError("engine.options.enforce_eager=False: on a CPU it is always true")
        self._settings = settings
        self._llm: Any = None
        self._names: tuple[str, ...] = ()  # of perturbed tensors
        self._head_checked = False
        self._cold = True  # no prompt has been run since the weights changed

    def load(self, center: Center) -> None:
        folder, settings = Path(center.path), self._settings
        specs = [spec for spec in parameters.read_specs(folder) if spec.is_float]
        names = parameters.perturbed_names(specs, settings.include, settings.exclude)
        elements = sum(spec.size for spec in specs)
        self._names = names
        if self._llm is None:
            self._start(folder, elements, max(spec.size for spec in specs))
        found = set(
            self._rpc(
                "corp_load",
                str(folder),
                settings.dtype,
                settings.pristine,
                settings.threads,
                names,
                elements,
                settings.tensor_parallel,
            )
        )
        self._reset_cache()
        if found != {center.digest}:
            raise EngineError(
                f"{folder}: this engine loaded weights {min(found)[:12]}..., the run works on "
                f"{center.digest[:12]}..."
            )
        if not self._head_checked:
            self._check_head(folder)
            self._head_checked = True

    def _rpc(self, method: str, *arguments: Any) -> list[Any]:
        """What each rank answers.

        Errors: EngineLostError. A rank that failed has its loader half way through a reload, and
        the answers of the others are still to be read: nothing of this engine can be trusted.
        """
        try:
            return self._llm.collective_rpc(method, args=arguments)
        except Exception as error:  # whatever it is, the consequence is the same
            raise EngineLostError(f"{method.removeprefix('corp_')}: {_line(error)}") from error

    def _start(self, folder: Path, elements: int, largest: int) -> None:
        settings, vllm = self._settings, self._vllm
        architectures = parameters.read_json(folder / "config.json").get("architectures") or ["?"]
        if not set(architectures) & set(vllm.ModelRegistry.get_supported_archs()):
            raise ConfigError(
                f"model.path={str(folder)!r}: vLLM {vllm.__version__} has no architecture "
                f"{architectures[0]!r}; use engine.kind=transformers"
            )
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._ends = end_tokens(folder, self._tokenizer)
        arguments: dict[str, Any] = {
            "enforce_eager": self._platform == "cpu",
            "disable_log_stats": True,
            "async_scheduling": False,  # nothing may be under way when the cache is reset
        }
        if settings.prompt_tokens:
            arguments["max_model_len"] = settings.prompt_tokens + settings.max_new_tokens
        if self._platform == "cpu":
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                arguments["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
            arguments["block_size"] = 32
        arguments |= settings.options
        if self._platform != "cpu":
            arguments["gpu_memory_utilization"] = self._gpu_share(elements, largest)
        try:
            with without_llvmlite():
                self._llm = vllm.LLM(
                    str(folder),
                    dtype=settings.dtype,
                    skip_tokenizer_init=True,
                    seed=0,
                    max_num_seqs=settings.batch_size,
                    tensor_parallel_size=settings.tensor_parallel,
                    distributed_executor_backend="mp" if settings.tensor_parallel > 1 else "uni",
                    enable_prefix_caching=True,
                    generation_config="vllm",
                    worker_extension_cls="corp_ray.engines.vllm_worker.CorpWorker",
                    **arguments,
                )
        except (TypeError, ValueError) as error:  # pydantic's errors are ValueErrors
            raise EngineError(f"vLLM {vllm.__version__} does not start: {_line(error)}") from error

    def _gpu_share(self, elements: int, largest: int) -> float:
        """`gpu_memory_utilization` that leaves room, within what was asked for, for a center on
        the GPU and for the largest tensor while it is made and loaded."""
        settings, device = self._settings, torch.device("cuda", 0)
        place = choose_place(
            settings.pristine, elements, settings.dtype, device, settings.tensor_parallel
        )
        width = checkpoint.DTYPES[settings.dtype].itemsize
        own = largest * (3 * width + 8)
        if place == "device":
            own += elements * (width + 4)
        whole = float(settings.options.get("gpu_memory_utilization", _GPU_SHARE))
        share = whole - own / torch.cuda.get_device_properties(device).total_memory
        if share <= 0:
            raise ConfigError(
                f"engine.pristine={settings.pristine!r}: the center leaves nothing of "
                f"gpu_memory_utilization {whole:g}; host or disk would"
            )
        return share

    def _check_head(self, folder: Path) -> None:
        """EngineError unless the output head moves as its tensor does.

        A head that is tied to the embedding can be left behind unseen, since the answers change
        with the embedding alone. The head may scale what it makes, so directions are compared.
        """
        specs = {spec.name: spec for spec in parameters.read_specs(folder)}
        content = parameters.read_json(folder / "config.json")
        tied = content.get("text_config", content).get("tie_word_embeddings")
        pattern = _EMBEDDING if tied else _HEAD
        head = next((name for name in self._names if pattern.match(name)), None)
        if head is None:
            log.warning("self-check: no perturbed tensor has the name of an output head")
            return
        (center,) = checkpoint.read_tensors(folder, [specs[head]], self._settings.dtype).values()
        moved = weights.apply_to_tensor(center, head, KNOWN)
        width = center.shape[1]
        hidden_BH = noise.gaussian(1, "corp_ray/head", 0, 4 * width).reshape(4, width)
        expected_BV = hidden_BH @ (moved.float() - center.float()).numpy().T
        before_BV = self._head(hidden_BH)
        self.apply(KNOWN, [head])
        change_BV = self._head(hidden_BH) - before_BV
        self.apply(Direction())
        if change_BV.shape != expected_BV.shape:
            found = np.zeros(len(hidden_BH))
        else:
            cross_B = (change_BV * expected_BV).sum(1)
            norms_B = np.linalg.norm(change_BV, axis=1) * np.linalg.norm(expected_BV, axis=1)
            found = cross_B / np.maximum(norms_B, np.finfo(float).tiny)
        if found.min() < 0.9:
            raise EngineError(
                f"self-check: {head} was perturbed and the output head did not follow "
                f"(cosine {found.min():.3f}); answers would be those of another model"
            )

    def _head(self, hidden_BH: np.ndarray) -> np.ndarray:
        gathered = self._rpc("corp_head", hidden_BH.tolist())
        return np.array(next(logits for logits in gathered if logits is not None))

    def _reset_cache(self) -> None:
        """Forget the keys and values that the old weights made."""
        self._cold = True
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not reset its prefix cache")

    def apply(self, direction: Direction, only: Sequence[str] | None = None) -> None:
        names = None if only is None else tuple(only)
        self._rpc("corp_apply", direction.terms, names, None)
        self._reset_cache()

    def hold(self, direction: Direction) -> None:
        self._rpc("corp_hold", direction.terms)

    def apply_step(self, step: float) -> None:
        self._rpc("corp_apply", (), None, step)
        self._reset_cache()

    def release(self) -> None:
        self._rpc("corp_release")

    def _run(self, prompts: Sequence[Messages], max_tokens: int, logprobs: int | None) -> list[Any]:
        ids = render(self._tokenizer, prompts, self._settings.chat_template)
        sampling = self._vllm.SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            logprobs=logprobs,
            stop_token_ids=self._ends,
            ignore_eos=True,  # stop_token_ids name all the end tokens there are
            detokenize=False,
        )
        rows = [{"prompt_token_ids": row} for row in ids]
        try:
            outputs = self._llm.generate(rows, sampling, use_tqdm=False)
        except Exception as error:  # as in _rpc
            raise EngineLostError(f"generate: {_line(error)}") from error
        if self._cold and outputs[0].num_cached_tokens != 0:
            raise EngineError("answers would rest on keys and values that other weights made")
        self._cold = False
        return [output.outputs[0] for output in outputs]

    def generate(self, prompts: Sequence[Messages]) -> list[Generation]:
        written = self._run(prompts, self._settings.max_new_tokens, None)
        return [answer(self._tokenizer, list(w.token_ids), self._ends) for w in written]

    def next_token_logprobs(
        self, prompts: Sequence[Messages], written: int = 0
    ) -> list[dict[int, float]]:
        """After an end token there is no next one; the log-probabilities are then its own."""
        return [
            {token: entry.logprob for token, entry in output.logprobs[-1].items()}
            for output in self._run(prompts, written + 1, 20)
        ]

    def digest(self) -> str:
        found = set(self._rpc("corp_digest"))
        self._reset_cache()
        if len(found) != 1:
            raise EngineError("the tensor-parallel ranks of an engine hold different weights")
        return found.pop()

    def describe(self) -> str:
        settings = self._settings
        ranks = f"tp{settings.tensor_parallel}"
        words = ["vllm", release(self._vllm.__version__), settings.dtype, self._platform, ranks]
        if settings.options:
            words.append(json.dumps(settings.options, sort_keys=True))
        return " ".join(words)
