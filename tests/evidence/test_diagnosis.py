"""jobs/diagnose on whole runs with rewards of known structure, and on tables with none."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from corp_ray import checkpoint, recipe, weights
from corp_ray.components import count_components
from corp_ray.diagnosis import Round, _center_folder, diagnose, stored
from corp_ray.diagnosis_text import describe
from corp_ray.direction import Direction
from corp_ray.errors import ConfigError
from corp_ray.outcomes import summarise_outcomes
from corp_ray.records import GRADED, VERIFIER_ERROR, WRONG_FORMAT, Candidate, Evaluation
from corp_ray.rounding import change_of
from corp_ray.scored_run import ScoredRun, rewards_of
from corp_ray.split_half import permuted
from corp_ray.storage import Storage
from tests.pico import pico_llama
from tests.runs import ROOT, run, workspace

ENGINE = "tests.planted_engine:PlantedEngine"


def planted_run(folder, job, options):
    config = workspace(
        folder,
        **{
            "engine.kind": ENGINE,
            "engine.options": options,
            "population.size": 70,
            "population.sigmas": "[0.01]",
            "splits.support": 150,
            "splits.gate": 300,
            "splits.test": 40,
            "recentering.rounds": 0,
        },
    )
    code, _, err = run(config, job=job)
    assert code == 0, err
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def rank_two(tmp_path_factory):
    return planted_run(tmp_path_factory.mktemp("two"), "posttrain", "{rank: 2}")


def job(directory, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "jobs.diagnose", str(directory), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_rank_planted_in_a_whole_run_is_found_from_its_directory(rank_two):
    code, out, err = job(rank_two, "--rounding", "--halvings", "10", "--permutations", "99")
    assert code == 0, err
    found = json.loads((rank_two / "report" / "diagnosis.json").read_text())
    assert found["format"] == "corp_ray diagnosis 1"
    assert (found["candidates"], found["examples"]) == (70, 150)
    assert found["components"]["significant"] == 2 and found["components"]["low_rank"]
    assert "low rank: 2 components" in out and "equal to the round's record" in out
    assert found["subspace_overlap"][1]["value"] > 3 * found["subspace_overlap"][1]["null_p95"]
    assert found["equals_record"] is True
    record = json.loads((rank_two / "rounds" / "0.json").read_text())
    for row, written in zip(found["consolidations"], record["consolidations"], strict=True):
        for name in row:
            assert row[name] == pytest.approx(written[name], rel=1e-9), name
    best = next(p for p in record["proposals"] if p["id"] == record["best"])
    assert found["rounding"]["proposal"] == best["id"]
    assert found["rounding"]["step"] == best["step"]
    assert found["rounding"]["total"]["cosine"] > 0.99
    assert sum(row["elements"] for row in found["rounding"]["rows"]) == 3504


def test_a_directory_with_rewards_alone_is_diagnosed(tmp_path):
    shutil.copytree(ROOT / "docs/results/populations/lcm-0", tmp_path / "kept")
    code, _, err = job(tmp_path / "kept", "--halvings", "2", "--permutations", "19")
    assert code == 0, err
    assert json.loads((tmp_path / "kept/report/diagnosis.json").read_text())["candidates"] == 400


def test_a_reward_of_full_rank_in_a_whole_run_is_not_called_low_rank(tmp_path):
    directory = planted_run(tmp_path, "score", "{rank: 40, strength: 1.2}")
    found = diagnose(ScoredRun(str(directory)), halvings=5, permutations=99)
    assert not found["components"]["low_rank"]
    assert "not called low rank" in found["components"]["statement"]
    assert found["equals_record"] is None and found["center"] is not None


def test_the_rewards_of_a_run_shuffled_have_no_component(rank_two):
    rewards_NE = rewards_of(ScoredRun(str(rank_two)).population())
    rng = np.random.default_rng(0)
    found = [
        count_components(permuted(rewards_NE, rng), permutations=39, rng=rng).significant
        for _ in range(20)
    ]
    assert sum(count > 0 for count in found) <= 4  # 5 of 20 or more: once in 400


def test_a_diagnosis_is_the_same_for_the_same_seed_and_another_for_another(rank_two):
    def structure(seed):
        found = diagnose(ScoredRun(str(rank_two)), seed=seed, halvings=3, permutations=19)
        return found["reliability"], found["direction_cosine"], found["components"]["tests"]

    assert structure(1) == structure(1) != structure(2)


def test_rounding_is_that_of_the_committed_weights(rank_two):
    written = recipe.load(rank_two / "commits" / "1" / "recipe.json")
    found = diagnose(ScoredRun(str(rank_two)), rounding=True, halvings=1, permutations=19)
    assert found["rounding"]["accepted"]
    assert found["rounding"]["norm"] == pytest.approx(written.steps[0].direction.norm, rel=1e-12)
    base = checkpoint.read_tensors(*_specs(rank_two.parent.parent / "model"), "bfloat16")
    after = checkpoint.read_tensors(*_specs(rank_two / "commits" / "1"), "bfloat16")
    for row in found["rounding"]["rows"]:
        made = after[row["name"]].double() - base[row["name"]].double()
        assert row["realised"] == pytest.approx(float(made.square().mean().sqrt()), rel=1e-6)
        assert row["changed"] == float((made != 0).double().mean())


def _specs(folder):
    from corp_ray.parameters import read_specs

    return folder, read_specs(folder)


def test_a_float32_change_is_made_as_meant_and_a_tiny_bfloat16_one_is_lost():
    direction = Direction({5: 3e-4, 9: -4e-4})
    tensor = torch.randn(64, 65, generator=torch.Generator().manual_seed(0)) * 0.02
    exact = change_of(tensor, "w", direction).row("w")
    assert exact["nominal"] == pytest.approx(5e-4, rel=0.05)
    assert exact["realised"] == pytest.approx(exact["nominal"], rel=1e-6)
    assert exact["cosine"] == pytest.approx(1.0, abs=1e-6) and exact["changed"] > 0.99
    rounded = tensor.bfloat16()
    half, tiny, none = (
        change_of(rounded, "w", direction.scale(factor)).row("w") for factor in (0.1, 0.01, 1e-9)
    )
    assert 1 > half["changed"] > tiny["changed"] > none["changed"] == 0
    assert exact["cosine"] > half["cosine"] > tiny["cosine"] > none["cosine"] == 0
    assert none["realised"] == none["ratio"] == 0 and none["nominal"] > 0


def test_the_change_after_rounding_is_that_of_apply_to_tensor():
    tensor = (torch.randn(40, 30, generator=torch.Generator().manual_seed(1)) * 0.02).bfloat16()
    direction = Direction({1: 1e-4, 2: 2e-4, 3: -1e-4})
    made = weights.apply_to_tensor(tensor, "w", direction).double() - tensor.double()
    row = change_of(tensor, "w", direction).row("w")
    assert row["realised"] == pytest.approx(float(made.square().mean().sqrt()), rel=1e-9)
    assert row["changed"] == float((made != 0).double().mean())


@dataclass
class TableRun:
    """A run whose table is at hand, as far as a diagnosis asks for one."""

    rows: list
    address: str = "table"
    config: dict = field(
        default_factory=lambda: {
            "population": {"size": 100},
            "consolidation": {
                "quantiles": [0.5],
                "inverse_temperatures": [5.0],
                "rank": 2,
                "compatibility": 1.0,
            },
        }
    )

    documents: dict = field(default_factory=dict)

    def rounds(self):
        return []

    def document(self, name):
        return self.documents.get(name)

    def population(self, number, size):
        return [e for e in self.rows if e.candidate.kind == "candidate"][:size]

    def evaluations(self, split):
        return self.rows


def evaluation(index, rewards, outcomes=None):
    candidate = (
        Candidate("r0center", "center", 0)
        if index < 0
        else Candidate(f"r0c{index}", "candidate", 0, ((index, 0.1),), sigma=0.1)
    )
    came = tuple(outcomes or [GRADED] * len(rewards))
    return Evaluation(candidate, "digest", "support", tuple(rewards), came, 1, 1.0, "fake")


def table(rewards_NE):
    return TableRun([evaluation(i - 1, row) for i, row in enumerate(rewards_NE)])


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_give_no_statistics_and_say_why(reward):
    found = diagnose(table(np.full((8, 6), reward)))
    assert found["reliability"] is found["subspace_overlap"] is found["components"] is None
    assert "differs between candidates" in found["undefined"]
    assert "not defined" in describe(json.loads(json.dumps(found, allow_nan=False)))


def test_rewards_that_differ_by_a_rounding_alone_are_equal():
    rewards_NE = np.full((8, 6), 0.3)
    rewards_NE[2, 1] = 0.1 + 0.2
    assert rewards_NE.min() < rewards_NE.max()
    assert "differs between candidates" in diagnose(table(rewards_NE))["undefined"]


@pytest.mark.parametrize("shape", [(4, 8), (9, 3)])
def test_too_few_candidates_or_examples_are_refused(shape):
    with pytest.raises(ConfigError, match="needs 4 of both"):
        diagnose(table(np.eye(*shape)))


def test_the_smallest_and_the_sparsest_tables_give_finite_numbers():
    one = np.zeros((9, 8))
    one[3, 2] = 1.0
    for rewards_NE in (np.random.default_rng(0).random((5, 4)), one, np.eye(6)):
        found = diagnose(table(rewards_NE), halvings=3, permutations=19)
        describe(json.loads(json.dumps(found, allow_nan=False)))
        assert found["components"]["significant"] == 0


def test_rows_of_two_populations_and_too_few_permutations_are_refused():
    rows = table(np.eye(7)).rows
    with pytest.raises(ConfigError, match="two populations"):
        diagnose(TableRun([*rows, rows[-1]]))
    with pytest.raises(ConfigError, match="permutations=18"):
        diagnose(TableRun(rows), permutations=18)
    with pytest.raises(ConfigError, match="seed=-1"):
        diagnose(TableRun(rows), seed=-1)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"round": 1}, False),
        ({"candidates": 5}, False),
        ({"examples": 8}, False),
        ({"equals_record": True}, False),  # of a round that was decided
    ],
)
def test_a_stored_diagnosis_is_used_for_round_0_as_it_stands_alone(changes, fits):
    run = table(np.eye(7))
    found = diagnose(run, halvings=1, permutations=19) | changes
    run.documents = {"report/diagnosis.json": found}
    assert stored(run) == (found if fits else None)


def test_equal_rewards_in_another_order_are_a_tie():
    """Rounding of a plain sum would part them, and the elite's threshold with them."""
    rewards = [0.1] * 3 + [0.2] * 3 + [0.3] * 4 + [0.7] * 6
    backwards = evaluation(1, rewards[::-1])
    assert sum(rewards) != sum(rewards[::-1])
    assert evaluation(0, rewards).mean == backwards.mean
    rows = [evaluation(0, rewards), backwards]
    assert summarise_outcomes(rows, evaluation(-1, [0.0] * 16), rows)["best"]["id"] == "r0c0"
    assert summarise_outcomes(rows[::-1], rows[0], rows)["best"]["id"] == "r0c1"


def test_the_center_of_a_run_on_a_committed_model_is_that_model(tmp_path):
    """Its folder is called commits/1 like one of the run's own."""
    base = tmp_path / "other/commits/1"
    pico_llama(base)
    config = {"model": {"path": str(base)}}
    records = [
        {"round": number, "center": {"path": str(path), "digest": digest}}
        for number, (path, digest) in enumerate([(base, "base"), (tmp_path / "commits/1", "own")])
    ]
    run = SimpleNamespace(
        config=config, root=Storage.open(tmp_path), rounds=lambda: records, address="run"
    )
    folders = [_center_folder(run, Round(n, (), None, one)) for n, one in enumerate(records)]
    assert folders == [base, tmp_path / "commits/1"]


def test_a_gain_is_split_by_what_the_center_answered():
    center = evaluation(
        -1, [1, 0, 0, 0, 1], [GRADED, GRADED, WRONG_FORMAT, WRONG_FORMAT, VERIFIER_ERROR]
    )
    rows = [evaluation(0, [0, 0, 1, 1, 1]), evaluation(1, [1, 0, 0, 0, 0])]
    found = summarise_outcomes(rows, center, rows)
    assert found["best"]["id"] == "r0c0" and found["best"]["gain"] == pytest.approx(0.2)
    parts = found["best"]["by_center_outcome"]
    assert parts[WRONG_FORMAT] == {"examples": 2, "gain": 0.4, "fixes": 2.0, "regressions": 0.0}
    assert parts[GRADED] == {"examples": 2, "gain": -0.2, "fixes": 0.0, "regressions": 1.0}
    assert sum(part["gain"] for part in parts.values()) == pytest.approx(found["best"]["gain"])
    assert found["elite"]["gain"] == pytest.approx(0.0)
    assert found["solved_by"] == pytest.approx({"none": 0.2, "some": 0.8, "all": 0.0})
    assert found["fixes_and_regressions"][1] == {"id": "r0c1", "fixes": 0, "regressions": 1}
    assert found["center_counts"] == {GRADED: 2, WRONG_FORMAT: 2, VERIFIER_ERROR: 1}
