"""Tests that need vLLM: `make test-vllm` runs them in an environment of their own.

Without vLLM nothing here is collected: the environment of `make test` has none.
"""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]
