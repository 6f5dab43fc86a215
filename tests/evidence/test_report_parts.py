"""Parts of a report by themselves: the verdict's sentence, and which rows decided a run."""

import pytest

from corp_ray.report.members import decided_by, is_ambiguous, of_round
from corp_ray.report.verdict import verdict_sentence

LOOK = {
    "superseded": False,
    "threshold": 0.0,
    "mean": 0.04,
    "lower": -0.01,
    "p_value": 0.2,
    "alpha": 0.04,
    "fixes": 9,
    "regressions": 5,
    "examples": 100,
}


def told(state, *accepted, looks=(), reason=""):
    """The verdict of a run with rounds that were accepted or not, each with a look."""
    rounds = [
        {"round": number, "accepted": one, "reason": "gain" if one else "not_reliable"}
        for number, one in enumerate(accepted)
    ]
    gate = [LOOK | {"round": number} for number in range(len(accepted))]
    for look, change in zip(gate, looks, strict=False):
        look |= change
    return verdict_sentence(
        {
            "state": state,
            "reason": reason,
            "rounds": rounds,
            "gate": gate,
            "population": {"scored": 3, "size": 10},
            "summary": None,
        }
    )


AGAIN = " The run is not at work now; the same command takes it up again."


@pytest.mark.parametrize(
    ("state", "rounds", "begins", "ends"),
    [
        ("ended", [False], "Abstained: the base model stands, because", "broken)."),
        ("running", [False], "No update was accepted so far, because", "broken)."),
        ("interrupted", [False], "No update was accepted so far, because", AGAIN),
        ("stopped", [False], "No update was accepted so far, because", AGAIN),
        ("silent", [True], "The gate accepted the first update", AGAIN),
        ("failed", [False], "No update was accepted so far", " The run failed: no engine"),
        ("failed", [], "Nothing is decided yet: 3 of 10", " The run failed: no engine"),
        ("running", [], "Nothing is decided yet: 3 of 10", "have a reward."),
        ("stopped", [], "Nothing is decided yet: 3 of 10", AGAIN),
        ("ended", [], "Nothing is decided yet: 3 of 10", AGAIN),  # of jobs.score
        ("ended", [True], "The gate accepted the first update: +4.0 points", "5 broken."),
    ],
)
def test_a_run_abstains_when_it_has_ended_and_not_before(state, rounds, begins, ends):
    sentence = told(state, *rounds, reason="no engine")
    assert sentence.startswith(begins) and sentence.endswith(ends), sentence


@pytest.mark.parametrize(
    ("look", "said"),
    [
        ({}, "could be chance (lower bound −1.0"),
        (
            {"threshold": 0.03, "lower": 0.02, "p_value": 1e-4},
            "+4.0 points on 100 held-out items, is not reliably above the margin of +3.0 points "
            "(lower bound +2.0",
        ),
        ({"mean": -0.01}, "gained nothing at the gate (−1.0 points"),
    ],
)
def test_the_reason_is_chance_or_the_margin(look, said):
    assert said in told("ended", False, looks=[look])


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([True, False], "; 1 later round changed nothing."),
        ([False, True], "; 1 other round changed nothing."),
        ([False, True, False], "; 2 other rounds changed nothing."),
        ([True, True], "and a second one with +4.0 more."),
    ],
)
def test_rounds_without_an_update_are_later_only_after_the_last_one(rounds, said):
    assert told("ended", *rounds).endswith(said)


def row(identifier, split, mean, *, kind="proposal", round_number=0, center="base"):
    return {
        "id": identifier,
        "split": split,
        "mean": mean,
        "kind": kind,
        "round": round_number,
        "center": center,
    }


RECORD = {
    "round": 0,
    "population": 1,
    "center": {"digest": "base"},
    "proposals": [{"id": "r0q0.8b2s1", "validation": 0.3}],
    "best": "r0q0.8b2s1",
    "verdict": {"mean": 0.1},
}


def test_proposals_of_before_an_extension_do_not_count_as_the_runs_own():
    own = [
        row("r0c0", "support", 0.5, kind="candidate"),
        row("center", "support", 0.1, kind="center"),
        row("center", "gate", 0.2, kind="center"),
        row("r0q0.8b2s1", "validation", 0.3),
        row("r0q0.8b2s1", "gate", 0.3),
    ]
    others = [
        row("r0c1", "support", 0.6, kind="candidate"),  # of the larger population
        row("r0q0.8b2s1", "validation", 0.25),
        row("r0q0.8b2s1", "gate", 0.35),
        row("r0q0.8b2s2", "validation", 0.3),
        row("r0q0.8b2s1", "test", 0.3),
        row("center", "gate", 0.3, kind="center", center="other"),
    ]
    found = decided_by([*others, *own], [RECORD])
    assert sorted(map(str, found)) == sorted(map(str, own))


def test_a_round_that_was_sampled_twice_is_known_to_be_and_counts_each_candidate_once():
    record = RECORD | {"round": 1, "population": 2}
    first = [row(f"r1c{k}", "support", 0.1 * k, kind="candidate", round_number=1) for k in (0, 1)]
    again = [one | {"mean": 0.9} for one in first]
    assert not is_ambiguous(first, record) and is_ambiguous(first + again, record)
    assert [one["id"] for one in of_round(first + again, record)] == ["r1c0", "r1c1"]
