"""The installed vLLM: how it is imported, which versions will do, and a fault that is stepped around."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from corp_ray.engines import VLLM_INSTALL
from corp_ray.errors import ConfigError

log = logging.getLogger(__name__)

TESTED = ("0.32.0",)
MINIMUM = "0.20"  # the first whose own requirements agree with this package's


def import_vllm() -> Any:
    """The package. Errors: ConfigError when it is missing or lacks what the engine needs."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the scheduler in this very process
    for name, value in (
        ("VLLM_LOGGING_LEVEL", "ERROR"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),  # else engines bind to the same cores
    ):
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    except ImportError as error:
        raise ConfigError(f"engine.kind='vllm': {error}; {VLLM_INSTALL}") from error
    if "weights_iterator" not in inspect.signature(GPUModelRunner.reload_weights).parameters:
        raise ConfigError(
            f"engine.kind='vllm': vLLM {vllm.__version__} cannot reload weights from an iterator, "
            f"{MINIMUM} or newer is needed; {VLLM_INSTALL}"
        )
    if release(vllm.__version__) not in TESTED:
        log.warning("vLLM %s: tested are %s", vllm.__version__, ", ".join(TESTED))
    return vllm


def known_options() -> set[str]:
    """The names of vLLM's engine arguments."""
    from vllm.engine.arg_utils import EngineArgs

    return {field.name for field in dataclasses.fields(EngineArgs)}


@contextmanager
def without_llvmlite() -> Iterator[None]:
    """Take llvmlite's function table out of sys.modules for a while.

    When its CPU build starts, vLLM 0.32 looks into every attribute of every module, and this one
    (numba has loaded it by then) answers to any name, `__dict__` too, with a function.
    """
    name = "llvmlite.binding.ffi"
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


def release(version: str) -> str:
    return version.split("+")[0]
