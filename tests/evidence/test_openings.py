"""How answers begin before and after an update: shares, rewards, and a gain in parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corp_ray.outcomes import opening, openings
from corp_ray.records import GRADED, Candidate, Evaluation


def answered(*pairs, texts=True):
    """An evaluation of these (text, reward)."""
    return Evaluation(
        candidate=Candidate("center", "center", 0),
        center_digest="d",
        split="test",
        rewards=tuple(float(reward) for _, reward in pairs),
        outcomes=(GRADED,) * len(pairs),
        generated_tokens=0,
        seconds=0.0,
        engine="e",
        texts=tuple(text for text, _ in pairs) if texts else (),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The answer is 4", "The answer"),
        ("30 + 26 = 56", "# +"),
        ("-6, -3, -2", "#, #,"),
        ("1,234.5 apples", "# apples"),
        ("  \n42", "#"),
        (" \n ", ""),
        ("x" * 50 + " is", "x" * 15 + "… is"),
        ("\\boxed{7} ok", "\\boxed{#} ok"),
    ],
)
def test_an_opening_is_the_first_two_words_with_numbers_as_one(text, words):
    assert opening(text) == words


def test_shares_rewards_and_gains_are_those_counted_by_hand():
    before = answered(("The sum is", 0), ("The sum was", 1), ("1 + 1 = 2", 0), ("So what now", 1))
    after = answered(("3 + 4 = 7", 1), ("5 + 5 = 10", 1), ("1 + 2 = 4", 0), ("The sum is", 1))
    assert openings({"before": before, "after": after}, shown=2) == [
        {
            "opening": "# +",
            "before": {"share": 0.25, "mean": 0.0, "gain": 0.0},
            "after": {"share": 0.75, "mean": 2 / 3, "gain": 0.5},
        },
        {
            "opening": "The sum",
            "before": {"share": 0.5, "mean": 0.5, "gain": 0.0},
            "after": {"share": 0.25, "mean": 1.0, "gain": 0.0},
        },
        {
            "opening": None,
            "before": {"share": 0.25, "mean": 1.0, "gain": 0.0},
            "after": {"share": 0.0, "mean": None, "gain": -0.25},
        },
    ]


def test_without_texts_there_is_nothing_to_say():
    pairs = [("a b", 1), ("c d", 0)]
    with_texts, without = answered(*pairs), answered(*pairs, texts=False)
    assert len(openings({"a": with_texts, "b": with_texts})) == 2
    assert openings({"a": with_texts, "b": without}) == []
    assert openings({"a": without, "b": with_texts}) == []


ANSWERS = st.tuples(st.sampled_from(["", "a b c", "a b", "a", "7 8", "9 1", "é"]), st.floats(0, 1))


@given(st.lists(st.tuples(ANSWERS, ANSWERS, ANSWERS), min_size=1, max_size=30), st.integers(0, 7))
def test_every_answer_is_counted_once_and_the_parts_add_up_to_the_gain(triples, shown):
    sides = {
        name: answered(*one) for name, one in zip("abc", zip(*triples, strict=True), strict=True)
    }
    found = openings(sides, shown)
    assert len(found) <= shown + 1
    for side, evaluation in sides.items():
        gain = evaluation.mean - sides["a"].mean
        assert sum(line[side]["gain"] for line in found) == pytest.approx(gain)
        assert sum(line[side]["share"] for line in found) == pytest.approx(1.0)
        parts = (line[side]["share"] * (line[side]["mean"] or 0.0) for line in found)
        assert sum(parts) == pytest.approx(evaluation.mean)
