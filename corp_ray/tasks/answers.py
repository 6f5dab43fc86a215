r"""Which part of a text is its answer: \boxed{...}, the line after ####, or what "answer is" says.

The last of its kind counts, since a text may correct itself. A box without its closing brace was
cut off and is none; neither is an empty one. Boxes that a comma, "and" or "or" joins are one
answer, so that "\boxed{2} or \boxed{3}" is the answer "2, 3" and not a second try.

Every function is linear in the length of the text.
"""

from __future__ import annotations

import re

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_JOIN = re.compile(r"[\s$.]*(?:\\[)\]]\s*)?(?:[,;&]|,?\s*(?:and|or)\b)[\s$]*(?:\\[(\[]\s*)?")
_HASHES = re.compile(r"####[ \t:]*([^\n]*)")
_PHRASE = re.compile(
    r"\banswers?(?:\s+to\s+[^\n.:]{0,80}?)?\s*(?:\*{1,2}\s*)?(?:\bis\b|\bare\b|[:=])(?!\s+not\b)"
    r"[\s:*]*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?:\.(?=\s|$)|\n)")
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<![\\$])\$([^$\n]+)\$|\\\(((?:[^\\]|\\(?![()]))+)\\\)|\\\[((?:[^\\]|\\(?![\[\]]))+)\\\]"
)
_LONGEST = 20_000  # characters from the end of a text that are read
_LONGEST_ANSWER = 2_000
_GAP = 40  # characters between two boxes of one answer


def box(text: str) -> str | None:
    r"""What stands in the last \boxed{...} of a text, in several that are joined, or None."""
    text = text[-_LONGEST:]
    found = ""
    later: tuple[int, str] | None = None
    for start, end, content in reversed(_boxes(text)):
        if later is None:
            found = content
        elif not _JOIN.fullmatch(text[end : later[0]][:_GAP]) or content == later[1]:
            break
        else:
            found = f"{content}, {found}"
        later = (start, content)
    return found or None


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every closed box that holds something and no other box."""
    found: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int, int]] = []  # start of the box, of its content, depth outside
    depth, place = 0, 0
    starts = {match.end() - 1: match.start() for match in _BOX.finditer(text)}
    for match in _BRACE.finditer(text):
        place = match.start()
        if match.group() == "{":
            if place in starts:
                opened.append((starts[place], place + 1, depth))
            depth += 1
        elif match.group() == "}":
            depth = max(depth - 1, 0)
            while opened and opened[-1][2] > depth:
                opened.pop()
            if opened and opened[-1][2] == depth:
                start, inside, _ = opened.pop()
                content = text[inside:place].strip()
                if content and not _BOX.search(content):
                    found.append((start, match.end(), content))
    return found


def after_hashes(text: str) -> str | None:
    """The rest of the last line with ####, or None."""
    found = [line.strip() for line in _HASHES.findall(text[-_LONGEST:]) if line.strip()]
    return found[-1] if found else None


def after_phrase(text: str) -> str | None:
    """The rest of the sentence after the last "answer is", "answers are" or "Answer:", or None."""
    text = text[-_LONGEST:]
    found = None
    for match in _PHRASE.finditer(text):
        found = match
    if found is None:
        return None
    rest = text[found.end() :][:_LONGEST_ANSWER]
    end = _SENTENCE.search(rest)
    return (rest[: end.start()] if end else rest).strip() or None


def last_formula(text: str) -> str | None:
    r"""The last $...$, $$...$$, \(...\) or \[...\] of a text, or None."""
    found = None
    for match in _FORMULA.finditer(text[-_LONGEST:]):
        found = match
    return found.group(found.lastindex or 0).strip() or None if found else None


def first_formulas(text: str) -> str | None:
    """The first formula of a sentence, with those that a comma, "and" or "or" joins to it."""
    found: list[str] = []
    end = 0
    for match in _FORMULA.finditer(text):
        if found and not _JOIN.fullmatch(text[end : match.start()][:_GAP]):
            break
        found.append(match.group(match.lastindex or 0).strip())
        end = match.end()
    return ", ".join(found) or None
