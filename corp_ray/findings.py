"""What a check of a task found."""

from __future__ import annotations

from dataclasses import dataclass

OK = "ok"
WARNING = "warning"  # may be meant so
PROBLEM = "problem"  # spoils a run


@dataclass(frozen=True)
class Finding:
    """One line of `check`; `shown` is a longer text to look at."""

    check: str
    level: str
    text: str
    shown: str = ""
