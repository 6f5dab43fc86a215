"""jobs.compare on whole runs with the fake engine: every number again from the Parquet rows."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corp_ray import config
from corp_ray.comparison import check_texts
from corp_ray.errors import ConfigError, RewardTableError
from corp_ray.outcomes import opening
from corp_ray.records import GRADED, Candidate, Center, Evaluation
from corp_ray.results_answers import _thoughtless, answers
from tests import runs

OWN, ENSEMBLE, VOTES = 24, 54, 6  # r0c52 is the best of 54, r0c14 of the first 24
SETTINGS = {
    "compare.population": ENSEMBLE,
    "compare.votes": VOTES,
    "engine.options.delay_s": 0.05,  # time enough to be killed in
}
NAMES = [
    "base",
    "best_single",
    "best_single_own",
    "majority_vote",
    "elite_average",
    "reward_softmax",
    "ungated",
    "gated",
    "evolution_strategies",
    "committed",
]


class Table:
    """The rows of one finished comparison, its report, and what the tests ask of both."""

    def __init__(self, root):
        self.report = json.loads((root / "report/compare.json").read_text())
        self.methods = {row["name"]: row for row in self.report["rows"]}
        self.rows = runs.rows(root)
        self.round = json.loads((root / "rounds/0.json").read_text())
        self.base = self.round["center"]["digest"]
        support = {
            row["candidate_id"]: row
            for row in self.on("support")
            if row["candidate_id"].startswith("r0c") and row["kind"] == "candidate"
        }
        self.population = [support[f"r0c{k}"] for k in range(len(support))]
        self.means = np.array([row["mean_reward"] for row in self.population])

    def on(self, split, center=None):
        center = center or self.base
        return [r for r in self.rows if r["split"] == split and r["center_digest"] == center]

    def test_row(self, direction_digest, center=None):
        (row,) = [r for r in self.on("test", center) if r["direction_digest"] == direction_digest]
        return row

    @property
    def base_row(self):
        (row,) = [row for row in self.on("test") if not row["seeds"]]
        return row

    def ranked(self, size=ENSEMBLE):
        """Test rows of candidates from the best support mean to the worst, as far as there are any."""
        order = sorted(range(size), key=lambda k: (-self.means[k], k))
        return [self.population[k]["direction_digest"] for k in order]

    def chosen(self, name):
        """The validation row that a method names as its choice."""
        identifier = self.methods[name]["chosen"]["id"]
        (row,) = [row for row in self.on("validation") if row["candidate_id"] == identifier]
        return row


@pytest.fixture(scope="module")
def compared(tmp_path_factory, ray_address):
    """jobs.compare from nothing: it makes the run, then the comparison."""
    folder = tmp_path_factory.mktemp("compared")
    code, out, err = runs.run(
        runs.workspace(folder, **SETTINGS), job="compare", RAY_ADDRESS=ray_address
    )
    assert code == 0, err
    return folder, Table(folder / "runs/run"), out


def interval(before, after):
    delta = np.subtract(after, before)
    half = 1.959963984540054 * statistics.stdev(delta) / math.sqrt(len(delta))
    return delta.mean(), delta.mean() - half, delta.mean() + half


def check(table, name, rewards):
    """A row's means, gains, intervals and counts are those of `rewards`."""
    row, base = table.methods[name], table.base_row["rewards"]
    best_single = table.test_row(table.ranked()[0])["rewards"]
    over = row["gain_over_best_single"]
    assert row["mean"] == pytest.approx(np.mean(rewards), abs=1e-12)
    found = row["gain"], row["low"], row["high"]
    assert found == pytest.approx(interval(base, rewards), abs=1e-12)
    found = over["gain"], over["low"], over["high"]
    assert found == pytest.approx(interval(best_single, rewards), abs=1e-12)
    assert row["fixes"] == sum(a > b for a, b in zip(rewards, base, strict=True))
    assert row["regressions"] == sum(a < b for a, b in zip(rewards, base, strict=True))


def cost(rows, candidates):
    return {
        "candidates": candidates,
        "answers": sum(len(row["rewards"]) for row in rows),
        "generated_tokens": sum(row["generated_tokens"] for row in rows),
        "engine_s": pytest.approx(sum(row["seconds"] for row in rows), rel=1e-12),
    }


def test_the_report_names_the_run_and_every_method(compared):
    folder, table, out = compared
    report = table.report
    assert [row["name"] for row in report["rows"]] == NAMES
    assert report["format"] == "corp_ray compare 1"
    assert (report["run"], report["seed"], report["split"]) == ("run", 0, "test")
    assert (report["population"], report["ensemble_population"]) == (OWN, ENSEMBLE)
    assert (report["votes"], report["examples"]) == (VOTES, 300)
    assert {row["split_digest"] for row in table.on("test")} == {report["split_digest"]}
    assert all(name in out for name in NAMES)
    assert not any(row["abstained"] for row in report["rows"])
    decided = json.loads((folder / "runs/run/report/test.json").read_text())["test"]
    assert decided[-1]["mean"] == table.methods["committed"]["mean"]
    assert decided[1]["mean"] == table.methods["best_single_own"]["mean"]


def test_answers_of_runs_are_those_of_their_rows(compared, tmp_path):
    folder, table, _ = compared
    (found,) = answers([str(folder / "runs/run")])["rows"]
    names = {"base": table.base_row, "best_single": table.test_row(table.ranked()[0])}
    names["ungated"] = table.test_row(table.chosen("ungated")["direction_digest"])
    for name, row in names.items():
        assert found["means"][name] == pytest.approx(table.methods[name]["mean"], abs=1e-12)
        begun = Counter(map(opening, row["texts"]))
        for line in found["openings"]:
            if line["opening"] is not None:
                assert line[name]["share"] == begun[line["opening"]] / 300
        gain = table.methods[name]["mean"] - table.methods["base"]["mean"]
        assert sum(line[name]["gain"] for line in found["openings"]) == pytest.approx(gain)
    rewards = np.array([table.test_row(one)["rewards"] for one in table.ranked()[:VOTES]])
    voters = found["voters"]
    assert (voters["count"], voters["mean"]) == (VOTES, pytest.approx(rewards.mean()))
    assert voters["best"] == pytest.approx(rewards.mean(axis=1).max())
    assert voters["any"] == pytest.approx(np.mean(rewards.max(axis=0) == 1))
    # "say 7" has the answer 7, which no other question has.
    gained = np.array(names["ungated"]["rewards"]) > np.array(table.base_row["rewards"])
    assert found["items"] == {"count": 300, "common": 1, "in_question": 300}
    assert found["fixes"]["in_question"] == found["fixes"]["count"] == gained.sum() > 0
    assert found["fixes"]["common"] <= 1
    copy = tmp_path / "copy"
    shutil.copytree(folder / "runs/run", copy)
    changed = json.loads((copy / "report/compare.json").read_text())
    changed["rows"][0]["mean"] += 0.01
    (copy / "report/compare.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"base has .* in the reward table"):
        answers([str(copy)])
    shutil.rmtree(copy / "rewards")
    with pytest.raises(ConfigError, match="copy: no rows of a population"):
        answers([str(copy)])


@pytest.mark.parametrize(
    ("answer", "question", "stands"),
    [
        ("7", "say 7", True),
        ("7", "say 77 and 17", False),
        ("7", "say 7.5 or 0.7", False),
        ("7", "is it 7.", True),
        ("-1", "-3, -1, ?", True),
        ("a.c", "abc", False),
    ],
)
def test_an_answer_stands_in_a_question_as_a_whole_word(answer, question, stands):
    base = Evaluation(Candidate("center", "center", 0), "d", "test", (0.0,), (GRADED,), 0, 0.0, "")
    after = replace(base, rewards=(1.0,))
    found = _thoughtless([{"answer": answer, "question": question}], base, after)
    assert found["fixes"] == {"count": 1, "common": 1, "in_question": int(stands)}
    assert _thoughtless([], base, after)["fixes"] is None


def test_single_models_have_the_rewards_of_their_rows(compared):
    _, table, _ = compared
    check(table, "base", table.base_row["rewards"])
    check(table, "best_single", table.test_row(table.ranked()[0])["rewards"])
    check(table, "best_single_own", table.test_row(table.ranked(OWN)[0])["rewards"])
    assert table.ranked()[0] != table.ranked(OWN)[0]
    (last,) = [r for r in table.rows if r["split"] == "test" and r["center_digest"] != table.base]
    check(table, "committed", last["rewards"])
    for name in NAMES:
        passes = VOTES if name == "majority_vote" else 1
        assert table.methods[name]["forward_passes"] == passes
        assert table.methods[name]["generated_tokens_per_item"] == passes


def test_the_vote_is_that_of_the_best_candidates_answers(compared):
    _, table, _ = compared
    voters = [table.test_row(digest) for digest in table.ranked()[:VOTES]]
    rewards, ties = [], 0
    for item in range(300):
        texts = [row["texts"][item] for row in voters]
        counted = Counter(texts).most_common()
        most = [text for text, count in counted if count == counted[0][1]]
        winner = next(row for row in voters if row["texts"][item] in most)
        rewards.append(winner["rewards"][item])
        ties += len(most) > 1
    check(table, "majority_vote", rewards)
    assert ties > 0
    vote = table.methods["majority_vote"]["vote"]
    assert vote == {"ties": ties, "invalid_answers": 0, "no_answer": 0}
    assert all(table.methods[n]["vote"] is None for n in NAMES if n != "majority_vote")


def amplitudes(table, weights):
    """{seed: amplitude} of a weighted sum of the run's own population."""
    return {
        row["seeds"][0]: weight * row["amplitudes"][0]
        for row, weight in zip(table.population[:OWN], weights, strict=True)
        if weight
    }


def average(means, quantile):
    elite = means >= np.quantile(means, quantile)
    return elite / elite.sum()


def softmax(means, quantile, beta):
    weights = np.exp(beta * means) * (means >= np.quantile(means, quantile))
    return weights / weights.sum()


def test_choices_are_the_best_on_validation_and_made_as_said(compared):
    _, table, _ = compared
    means = table.means[:OWN]
    z = (means - means.mean()) / means.std()
    sigmas = np.array([row["amplitudes"][0] for row in table.population[:OWN]])
    reach = np.mean([one["norm"] for one in table.round["consolidations"]])
    made = {
        "elite_average": lambda c: average(means, c["quantile"]),
        "reward_softmax": lambda c: softmax(means, c["quantile"], c["inverse_temperature"]),
        "evolution_strategies": lambda c: z * reach / math.hypot(*(z * sigmas)),
    }
    names = {
        "elite_average": ("-average", 2 * 3),
        "reward_softmax": ("-softmax", 2 * 2 * 3),
        "evolution_strategies": ("-evolution", 3),
    }
    for name, weights_of in made.items():
        chosen, row = table.methods[name]["chosen"], table.chosen(name)
        expected = amplitudes(table, chosen["step"] * weights_of(chosen))
        found = dict(zip(row["seeds"], row["amplitudes"], strict=True))
        found = {seed: row["step"] * amplitude for seed, amplitude in found.items()}
        assert found == pytest.approx(expected, rel=1e-9), name
        check(table, name, table.test_row(row["direction_digest"])["rewards"])
        ending, count = names[name]
        tried = [r for r in table.on("validation") if r["candidate_id"].endswith(ending)]
        assert len(tried) == count
        best = max(r["mean_reward"] for r in tried)
        assert chosen["validation"] == row["mean_reward"] == best
        assert chosen["step"] == min(r["step"] for r in tried if r["mean_reward"] == best)
    assert table.methods["elite_average"]["chosen"]["inverse_temperature"] is None
    assert table.methods["evolution_strategies"]["chosen"]["quantile"] is None


def test_the_update_is_the_runs_own_with_and_without_the_gate(compared):
    _, table, _ = compared
    assert table.round["accepted"]
    row = table.chosen("ungated")
    assert row["candidate_id"] == table.round["best"]
    for name in ("ungated", "gated"):
        check(table, name, table.test_row(row["direction_digest"])["rewards"])
        assert table.methods[name]["chosen"]["id"] == table.round["best"]


def test_each_method_costs_what_it_alone_needed(compared):
    _, table, _ = compared
    search = {name: table.methods[name]["search"] for name in NAMES}
    own, ensemble = table.population[:OWN], table.population
    assert search["base"] == cost([], 0)
    assert search["best_single"] == search["majority_vote"] == cost(ensemble, ENSEMBLE)
    assert search["best_single_own"] == cost(own, OWN)

    def tried(ending):
        return [r for r in table.on("validation") if r["candidate_id"].endswith(ending)]

    for name, ending in (
        ("elite_average", "-average"),
        ("reward_softmax", "-softmax"),
        ("evolution_strategies", "-evolution"),
    ):
        rows = tried(ending)
        assert search[name] == cost([*own, *rows], OWN + len(rows))
    proposals = {p["id"] for p in table.round["proposals"]}
    swept = [r for r in table.on("validation") if r["candidate_id"] in proposals]
    assert search["ungated"] == cost([*own, *swept], OWN + len(swept))
    center = [r for r in table.on("validation") if not r["seeds"]]
    judged = table.on("gate")
    assert len(judged) == 2
    assert search["gated"] == cost([*own, *swept, *center, *judged], OWN + len(swept))
    others = {r["direction_digest"] for r in ensemble[OWN:]}
    endings = ("-average", "-softmax", "-evolution")
    whole = [
        row
        for row in table.rows
        if row["split"] != "test"
        and row["direction_digest"] not in others
        and not row["candidate_id"].endswith(endings)
    ]
    candidates = {(r["center_digest"], r["direction_digest"]) for r in whole if r["seeds"]}
    assert search["committed"] == cost(whole, len(candidates))


def keys(rows):
    return [(r["center_digest"], r["split"], r["direction_digest"]) for r in rows]


def timed(rows):
    """What scoring a row again would change: its seconds."""
    return {(*key, row["seconds"]) for key, row in zip(keys(rows), rows, strict=True)}


def timeless(report):
    """A report without the engines' seconds, which are another run's own."""
    rows = [{**r, "search": {**r["search"], "engine_s": 0}} for r in report["rows"]]
    return {**report, "rows": rows}


def rewrite(root, keep):
    """The table as one part, without the rows that `keep` refuses; returns its name."""
    parts = sorted((root / "rewards").glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    kept = [row for row in table.to_pylist() if keep(row)]
    for part in parts:
        part.unlink()
    pq.write_table(pa.Table.from_pylist(kept, schema=table.schema), parts[0])
    return parts[0].name


def test_a_kill_amid_the_comparison_changes_nothing_and_scores_nothing_twice(
    compared, tmp_path, ray_address
):
    folder, table, _ = compared
    root = tmp_path / "runs/run"
    shutil.copytree(folder / "runs/run", root)
    (root / "report/compare.json").unlink()

    def of_the_run(row):
        ended = row["candidate_id"].endswith("-evolution")
        return not ended and (row["split"] != "test" or not row["seeds"])

    first = rewrite(root, of_the_run)

    def new_rows():
        parts = [p for p in (root / "rewards").glob("*.parquet") if p.name != first]
        return [row for part in parts for row in pq.read_table(part).to_pylist()]

    place, conf = f"run.directory={tmp_path / 'runs'}", folder / "conf.yaml"
    process = runs.start(conf, place, job="compare", RAY_ADDRESS=ray_address)
    assert runs.kill_when(process, lambda: any(row["split"] == "test" for row in new_rows()))
    held, on_test = timed(new_rows()), sum(row["split"] == "test" for row in runs.rows(root))
    assert len(held) < len(table.rows) - len(pq.read_table(root / "rewards" / first))
    assert not (root / "report/compare.json").exists()
    code, _, err = runs.run(conf, place, job="compare", RAY_ADDRESS=ray_address)
    assert code == 0, err
    after = Table(root)
    assert timeless(after.report) == timeless(table.report)
    assert sorted(keys(after.rows)) == sorted(keys(table.rows))
    assert held <= timed(after.rows)
    left = re.search(r"compare: test: (\d+) to score", err)
    assert left and int(left[1]) == sum(row["split"] == "test" for row in after.rows) - on_test


class FakeScoring:
    """A table with rows on test: candidate id -> texts."""

    def __init__(self, texts):
        self._texts = texts

    def unjudged(self, split, work):
        return [(center, voter) for center, voter in work if voter.id not in self._texts]

    def evaluation(self, center, split, voter):
        texts = self._texts[voter.id]
        return Evaluation(voter, center.digest, split, (1.0,), (GRADED,), 1, 1.0, "fake", (), texts)


def test_a_voter_whose_answers_were_not_kept_is_refused_by_name():
    voters = [Candidate(f"r0c{k}", "candidate", 0, ((k, 0.01),)) for k in range(3)]
    base = Center("base", "0" * 64)
    check_texts(FakeScoring({"r0c0": ("7",)}), base, voters)
    with pytest.raises(RewardTableError, match="r0c1 has a row on test without its answers"):
        check_texts(FakeScoring({"r0c0": ("7",), "r0c1": ()}), base, voters)


OWN_TASK = """
from corp_ray.records import WRONG_FORMAT, Grade

in_place = True


def examples():
    for number in range(1, 1201):
        yield {"question": f"say {number}", "answer": str(number)}


def reward(answer, text):
    return Grade(0.0, WRONG_FORMAT) if text == "0" else float(text == answer)
"""


def test_a_run_that_committed_nothing_is_compared_as_the_base_and_says_so(tmp_path, ray_address):
    """Without any signal all rewards are equal, which leaves evolution strategies no direction, and
    every average is the same; an answer of the wrong format has no vote."""
    own_task = tmp_path / "own.py"
    own_task.write_text(OWN_TASK)
    changes = {"engine.options.gain": 0.0, "recentering.rounds": 0, "compare.votes": OWN}
    changes |= {"task.kind": "auto", "task.path": own_task, "task.grader": "exact"}
    conf = runs.workspace(tmp_path, **changes)
    code, out, err = runs.run(conf, job="compare", RAY_ADDRESS=ray_address)
    assert code == 0, err
    table = Table(tmp_path / "runs/run")
    assert list(table.methods) == [name for name in NAMES if name != "best_single_own"]
    abstained = {name for name, row in table.methods.items() if row["abstained"]}
    assert abstained == {"gated", "evolution_strategies", "committed"}
    for name in abstained:
        row = table.methods[name]
        assert (row["gain"], row["fixes"], row["regressions"]) == (0.0, 0, 0)
        assert row["chosen"] is None and row["note"] in out
    assert "all rewards of the population are equal" in out
    assert "no_gain_on_validation" in table.methods["gated"]["note"]
    assert table.methods["ungated"]["chosen"] is not None
    silent = table.base_row["texts"].count("0")
    vote = table.methods["majority_vote"]["vote"]
    assert silent > 0
    assert vote == {"ties": 0, "invalid_answers": OWN * silent, "no_answer": silent}
    # What two methods share is scored once: the run's own report had base and best single.
    new = re.search(r"compare: test: (\d+) to score", err)
    assert new and int(new[1]) == len(table.on("test")) - 2


def test_methods_that_need_no_decision_are_compared_without_the_run(
    compared, tmp_path, ray_address
):
    folder, table, _ = compared
    methods = "compare.methods=[ungated]"
    place = f"run.directory={tmp_path}"
    more = "compare.population=0"
    code, _, err = runs.run(
        folder / "conf.yaml", place, methods, more, job="compare", RAY_ADDRESS=ray_address
    )
    assert code == 0, err
    found = json.loads((tmp_path / "run/report/compare.json").read_text())["rows"]
    assert [row["name"] for row in found] == ["base", "best_single", "ungated"]
    assert found[2]["mean"] == table.methods["ungated"]["mean"]
    assert found[1]["mean"] == table.methods["best_single_own"]["mean"]
    assert not list((tmp_path / "run/rounds").iterdir())
    rows = runs.rows(tmp_path / "run")
    assert len([row for row in rows if row["split"] == "test"]) == 3
    assert {row["split"] for row in rows} == {"support", "validation", "test"}


def test_more_votes_than_candidates_are_refused_in_one_line(tmp_path):
    conf = runs.workspace(tmp_path, **{"compare.votes": OWN + 1})
    code, _, err = runs.run(conf, job="compare")
    assert code == 2
    assert err.splitlines() == [
        "error: compare.votes=25: expected at most the 24 candidates there are to vote "
        "(compare.population adds some)"
    ]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["population.size=100", "compare.population=99"], "compare.population=99: .*at least"),
        (["compare.methods=[gated,vote]"], "compare.methods=.*: expected some of majority_vote, "),
        (["population.size=10", "compare.population=20"], "compare.votes=50: .*at most the 20 "),
    ],
)
def test_a_comparison_needs_the_runs_population_and_enough_voters(changes, named):
    path = str(runs.ROOT / "conf/demo.yaml")
    given = config.load(path, changes)
    with pytest.raises(ConfigError, match=named):
        config.validate_comparison(given)
    config.validate_comparison(config.load(path))
    for refused in ("compare.votes=0", "compare.population=-1"):
        with pytest.raises(ConfigError, match="expected at least"):
            config.load(path, [refused])
