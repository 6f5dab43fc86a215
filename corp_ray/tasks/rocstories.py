"""ROCStories: put the shuffled sentences of a short story in order, with partial credit.

Rows as in shawon/rocstories-combined (`title`, `sentences` in order), which are shuffled here, or
already shuffled as RandOpt has them (`shuffled_sentences`, `gold_order`: the sentence that belongs
at each place, counted from 0). The reward is RandOpt's: 60 % the share of sentences at their place,
40 % the share of neighbours in the story whose order is kept, whatever stands between them.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from corp_ray.errors import TaskError
from corp_ray.records import GRADED, WRONG_FORMAT, Example, Grade
from corp_ray.tasks import Messages, chat
from corp_ray.tasks.sources import Family, Row, Upstream, lacking

UPSTREAM = Upstream("shawon/rocstories-combined", split="train", folder="rocstories")

_LEAST, _MOST = 2, 26  # sentences of a story; the published ones have 5


class ROCStoriesTask(Family):
    """The prompt letters the sentences and asks for the letters in order, as in "B,A,D,E,C".

    Graded is the last list of as many letters as there are sentences; when that repeats a letter,
    or there is none, the text has the wrong format. Arguments as of `sources.read_rows`. Errors:
    TaskError naming file, row and field.
    """

    version = "rocstories 1"
    in_place = True
    upstream = UPSTREAM

    def examples(self) -> Sequence[Example]:
        found = []
        for number, (place, row) in enumerate(self._rows()):
            shown, order = _story(place, row)
            title = str(row.get("title") or row.get("storytitle") or "")
            lettered = "\n".join(f"{a}. {s}" for a, s in zip(_letters(shown), shown, strict=True))
            answer = ",".join(string.ascii_uppercase[k] for k in order)
            data = {"title": title, "sentences": shown}
            found.append(Example(str(number), lettered, answer, data))
        return found

    def prompt(self, example: Example) -> Messages:
        letters = _letters(example.data["sentences"])
        title = f'The story "{example.data["title"]}"' if example.data["title"] else "A story"
        return chat(
            self._system_prompt,
            f"{title} has {len(letters)} sentences. Here they are, shuffled:\n\n"
            f"{example.question}\n\nIn which order do they tell the story? Reply with all "
            f"{len(letters)} letters, first sentence first, separated by commas and nothing else, "
            f"in the form {','.join(letters[1::2] + letters[::2])}",
        )

    def reward(self, example: Example, text: str) -> Grade:
        gold = example.answer.split(",")
        said = _last_list(text, len(gold))
        if sorted(said) != sorted(gold):
            return Grade(0.0, WRONG_FORMAT, 0.0)
        asked = re.sub(r"\s", "", text) == ",".join(said)
        said = _like_gold(said, gold, example.data["sentences"])
        return Grade(score(said, gold), GRADED, float(asked))

    def answer(self, example: Example, text: str) -> str | None:
        """The order as in "B,A,D,E,C", orders of equal sentences as one; None where there is none."""
        gold = example.answer.split(",")
        said = _last_list(text, len(gold))
        if sorted(said) != sorted(gold):
            return None
        return ",".join(_like_gold(said, gold, example.data["sentences"]))

    def gold(self, example: Example) -> str:
        """The text that is graded 1."""
        return example.answer

    def wrong(self, example: Example) -> list[str]:
        """Texts that are graded 0: no order, and one that repeats a letter."""
        first, *rest = example.answer.split(",")
        return ["I do not know.", ",".join([first, first, *rest[1:]])]


def score(said: Sequence[str], gold: Sequence[str]) -> float:
    """0.6 times the share of places that agree, plus 0.4 times the share of gold's neighbours
    that `said`, a permutation of `gold`, has in the same order."""
    in_place = sum(a == b for a, b in zip(said, gold, strict=True))
    at = {letter: number for number, letter in enumerate(said)}
    kept = sum(at[a] < at[b] for a, b in pairwise(gold))
    return (6 * in_place / len(gold) + 4 * kept / (len(gold) - 1)) / 10


def _letters(sentences: Sequence[str]) -> str:
    return string.ascii_uppercase[: len(sentences)]


def _last_list(text: str, count: int) -> list[str]:
    """The last list of `count` letters in `text`, in capitals; empty when there is none.

    Letters may be small when signs separate them; capitals may stand alone ("B A D") or
    together ("BAD"). Longer and shorter lists are other things.
    """
    letters = f"A-{string.ascii_uppercase[count - 1]}"
    found = ""
    lists = re.compile(
        rf"(?<![\w'])(?:[{letters}](?:[ \t]*(?:,|;|->|\u2192|>|-)\s*|[ \t]+|)(?=[{letters}]))+"
        rf"[{letters}](?![\w'])"
    )
    small = re.compile(
        rf"(?<![\w'])(?:[{letters.lower()}]\s*(?:,|;|->|\u2192|>)\s*)+[{letters.lower()}](?![\w'])"
    )
    end = -1
    for pattern in (lists, small):
        for match in pattern.finditer(text):
            only = re.sub(r"[^A-Za-z]", "", match.group())
            if len(only) == count and match.end() > end:
                found, end = only.upper(), match.end()
    return list(found)


def _like_gold(said: list[str], gold: list[str], sentences: Sequence[str]) -> list[str]:
    """`said` with letters of equal sentences in gold's order: nobody can tell those apart."""
    text = dict(zip(_letters(sentences), sentences, strict=True))
    waiting: dict[str, Iterator[str]] = {
        sentence: iter([letter for letter in gold if text[letter] == sentence])
        for sentence in sentences
    }
    return [next(waiting[text[letter]]) for letter in said]


def _story(place: str, row: Row) -> tuple[list[str], list[int]]:
    """The sentences as shown, and for each place of the story the number of its sentence.

    Errors: TaskError naming the field.
    """
    if row.get("shuffled_sentences") is not None:
        shown = _texts(place, "shuffled_sentences", row["shuffled_sentences"])
        order = row.get("gold_order")
        if not isinstance(order, list) or sorted(map(repr, order)) != sorted(
            map(repr, range(len(shown)))
        ):
            raise TaskError(
                f"{place}: 'gold_order' is {order!r}, expected each of 0 to {len(shown) - 1} once"
            )
        return shown, order
    if row.get("sentences") is not None:
        sentences = _texts(place, "sentences", row["sentences"])
    elif row.get("sentence1") is not None:  # as the authors' own tables have them
        fields = [f"sentence{k}" for k in range(1, 6)]
        sentences = _texts(place, "sentence1 to sentence5", [row.get(field) for field in fields])
    else:
        raise lacking(place, row, "sentences")
    return _shuffled(sentences)


def _texts(place: str, field: str, found: Any) -> list[str]:
    texts = found if isinstance(found, list) else []
    if not _LEAST <= len(texts) <= _MOST or not all(
        isinstance(t, str) and t.strip() for t in texts
    ):
        raise TaskError(
            f"{place}: {field!r} is {repr(found)[:80]}, expected {_LEAST} to {_MOST} sentences"
        )
    return [" ".join(text.split()) for text in texts]


def _shuffled(sentences: list[str]) -> tuple[list[str], list[int]]:
    """The sentences by a hash of the story and the place: the same on every machine."""
    story = "\n".join(sentences)
    keys = [
        hashlib.sha256(f"corp_ray rocstories 1\n{place}\n{story}".encode()).digest()
        for place in range(len(sentences))
    ]
    shown = sorted(range(len(sentences)), key=keys.__getitem__)
    return [sentences[k] for k in shown], [shown.index(k) for k in range(len(sentences))]
