"""A run as it is read from its directory by those who look at results."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corp_ray.errors import ConfigError
from corp_ray.scored_run import ScoredRun, rewards_of
from corp_ray.tasks.splits import NAMES
from tests.runs import run, workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_address):
    folder = tmp_path_factory.mktemp("finished")
    config = workspace(folder)
    code, _, err = run(config, RAY_ADDRESS=ray_address)
    assert code == 0, err
    return folder / "runs" / "run"


def test_the_population_is_read_in_its_order_with_the_rewards_that_decided(finished):
    scored = ScoredRun(str(finished))
    population = scored.population(0)
    assert [e.candidate.id for e in population] == [f"r0c{k}" for k in range(24)]
    rewards_NE = rewards_of(population)
    assert rewards_NE.shape == (24, 120)
    best = json.loads((finished / "rounds" / "0.json").read_text())["support"]["best"]
    assert best["id"] == f"r0c{int(np.argmax(rewards_NE.mean(axis=1)))}"
    assert len(scored.population(0, 10)) == 10 and len(scored.population(1)) == 12
    assert [one["round"] for one in scored.rounds()] == [0, 1]
    assert scored.config["population"]["size"] == 24


def test_held_out_answers_and_their_questions_are_kept_and_support_answers_are_not(finished):
    scored = ScoredRun(str(finished))
    for split, size in (("gate", 400), ("test", 300)):
        questions = scored.questions(split)
        rows = scored.evaluations(split)
        assert len(questions) == size and rows
        for row in rows:
            assert len(row.texts) == size
            said = [
                text.strip() == one["answer"]
                for text, one in zip(row.texts, questions, strict=True)
            ]
            assert said == [reward == 1.0 for reward in row.rewards]
    assert all(not e.texts for e in scored.evaluations("support"))
    assert all(not e.texts for e in scored.evaluations("validation"))


def test_a_part_that_contradicts_itself_is_left_out_of_all(finished, tmp_path):
    """As the run itself leaves it out: a mean that is not that of its rewards."""
    shutil.copytree(finished, tmp_path / "run")
    part = next((tmp_path / "run/rewards").glob("*.parquet"))
    table = pq.read_table(part)
    means = pa.array([mean + 0.5 for mean in table["mean_reward"].to_pylist()])
    at = table.schema.get_field_index("mean_reward")
    pq.write_table(table.set_column(at, "mean_reward", means), part)
    whole, spoilt = ScoredRun(str(finished)), ScoredRun(str(tmp_path / "run"))
    assert len(spoilt.scores()) == len(whole.scores()) - table.num_rows
    kept = sum(len(spoilt.evaluations(split)) for split in NAMES)
    assert kept == len(spoilt.scores())
    assert {one["mean"] for one in spoilt.scores()} <= {one["mean"] for one in whole.scores()}


def test_what_is_no_run_is_refused_and_what_is_not_there_yet_is_none(finished, tmp_path):
    with pytest.raises(ConfigError, match="no run there"):
        ScoredRun(str(tmp_path))
    scored = ScoredRun(str(finished))
    assert scored.document("report/compare.json") is None
    assert scored.root.json_lines("none.jsonl") == []
    assert scored.root.json_lines("metrics.jsonl")[0]["phase"] == "round 0: population"
