"""The program in a text that a model wrote, and whether it stands in the form that was asked for.

Looks with regular expressions only; nothing here compiles what a model wrote. In this order: what
follows the last </think>; of its fenced blocks (the last one may lack its end) the last that
defines a wanted name, else the last; what stands in <answer> tags; else the first run of lines
that look like a program.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_FENCED = re.compile(
    r"^[ \t]*```[ \t]*(?P<language>[\w+-]*)[^\n`]*\n(?P<code>.*?)(?P<end>^[ \t]*```[ \t]*$|\Z)",
    re.M | re.S,
)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.S)
_STARTS = re.compile(r"(?:async[ \t]+def|def|class|from|import)[ \t]+\w|@\w")
_GOES_ON = re.compile(
    r"\s|$|#|@\w|(?:async\s+def|def|class|from|import|if|for|while|with|elif|del|global|assert)\s"
    r"|(?:try|else|finally|except\b.*):|[)\]}]|\"\"\"|'''"
    r"|\w[\w.,\[\]'\" ]*[-+*/%|&^]?=[^=]|\w[\w.]*\("
)


@dataclass(frozen=True)
class Found:
    """A program and whether it stood in a closed ```python block."""

    source: str
    asked_form: bool


def defines(source: str, name: str) -> bool:
    """Whether a line of `source` defines `name` at the top level."""
    name = re.escape(name)
    return bool(
        re.search(rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^{name}[ \t]*=", source, re.M)
    )


def find_program(text: str, names: Collection[str]) -> Found | None:
    """The program that defines `names`, or the nearest thing to it; None where there is none."""
    text = text.replace("\r\n", "\n").rpartition("</think>")[2]
    blocks = [block for block in _FENCED.finditer(text) if block["code"].strip()]
    wanted = [block for block in blocks if any(defines(block["code"], name) for name in names)]
    if blocks:
        block = (wanted or blocks)[-1]
        python = block["language"].lower() in ("python", "python3", "py")
        return Found(block["code"], python and bool(block["end"]))
    answers = [answer for answer in _ANSWER.findall(text) if answer.strip()]
    source = _lines_of_program(answers[-1] if answers else text)
    return Found(source, False) if source else None


def _lines_of_program(text: str) -> str:
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if _STARTS.match(line)), None)
    if first is None:
        return ""
    while first and _GOES_ON.match(lines[first - 1]) and lines[first - 1].strip():
        first -= 1
    last = first
    while last < len(lines) and _GOES_ON.match(lines[last]):
        last += 1
    return "\n".join(lines[first:last]).rstrip() + "\n"
