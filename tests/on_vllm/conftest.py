"""Tests that need vLLM: `make test-vllm` runs them in an environment of their own.

Without vLLM nothing here is collected; pytest then says that no test ran, and fails.
"""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]
