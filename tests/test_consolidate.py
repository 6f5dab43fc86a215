"""Consolidation and the positive-score merge: golden numbers of the authors' implementation,
freedom of scale and order, the cloud's statistics against plain linear algebra, errors."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from corp_ray.consolidate import consolidate, effective_sample_size, merge_positive, softmax
from corp_ray.direction import Direction, coordinates

VECTORS = Path(__file__).parent / "vectors"
GOLDEN = json.loads((VECTORS / "consolidate.json").read_text())
GOLDEN_MERGES = json.loads((VECTORS / "positive_merge.json").read_text())


def close(found, expected, rtol=1e-7, atol=0.0):
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol, atol)


def population(count, seed=0, sigmas=(5e-4, 1e-3, 2e-3), shared=0):
    """Isotropic candidates with 0/1-like mean rewards; `shared` seeds make them overlap."""
    rng = np.random.default_rng(seed)
    drawn = [
        Direction(
            [(1000 + i, rng.choice(sigmas)), *((j, 1e-3 * rng.normal()) for j in range(shared))]
        )
        for i in range(count)
    ]
    return drawn, rng.integers(0, 40, count) / 40


def assert_same_direction(found, expected, rtol=1e-7):
    _, (a, b) = coordinates([found, expected])
    close(a, b, rtol, atol=1e-13 * float(np.max(np.abs(b), initial=0)))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_consolidation_matches_the_authors_implementation(case):
    found = consolidate(
        [Direction(terms) for terms in case["directions"]],
        case["rewards"],
        quantile=case["q"],
        inverse_temperature=case["beta"],
        rank=case["rank"],
    )
    expect = case["expect"]
    assert found.elite.tolist() == expect["elite"]
    for field in ("threshold", "pass1_weights", "alignment", "pass2_weights", "norm", "ess"):
        close(getattr(found, field), expect[field])
    squares = max(sum(a * a for _, a in terms) for terms in case["directions"])
    close(found.dispersion, expect["dispersion"], atol=1e-14 * squares)
    close(found.trace, expect["trace"], atol=1e-20)
    close(found.effective_rank, expect["effective_rank"])
    listed = expect["eigenvalues"]
    close(found.eigenvalues[: len(listed)], listed, atol=1e-12 * expect["trace"])
    close(found.kappa, expect["kappa"], rtol=1e-4 if expect["trace"] < 1e-9 else 1e-7)
    assert_same_direction(found.mean, Direction(expect["mean"]))


@pytest.mark.parametrize("case", GOLDEN_MERGES, ids=lambda case: case["id"])
def test_positive_merge_matches_the_authors_implementation(case):
    found = merge_positive(
        [Direction(terms) for terms in case["directions"]],
        case["scores"],
        target_ess=case["target_ess"],
        rank=case["rank"],
    )
    expect = case["expect"]
    if expect is None:
        assert found is None
        return
    assert found.positive.tolist() == expect["positive"]
    for field in ("weights", "temperature", "norm", "ess"):
        close(getattr(found, field), float(expect[field]) if field != "weights" else expect[field])
    close(found.trace, expect["trace"], atol=1e-20)
    close(found.effective_rank, expect["effective_rank"])


def test_two_candidates_by_hand():
    x, y = Direction({1: 3.0}), Direction({2: 4.0})
    found = consolidate([x, y], [1.0, 1.0], quantile=0.5, inverse_temperature=5, rank=2)
    close(found.pass1_weights, [0.5, 0.5])
    close(found.alignment, [0.6, 0.8])  # p = (1.5, 2), |p| = 2.5
    close(found.dispersion, [9 - 1.8**2, 16 - 3.2**2])  # both 5.76: only alignment tells
    close(found.pass2_weights, softmax(np.array([-1.0, 1.0])))
    close(found.norm, 3.0 * np.hypot(found.pass2_weights[0], found.pass2_weights[1] * 4 / 3))


@pytest.mark.parametrize("shared", [0, 5])
@pytest.mark.parametrize("factor", [1e-4, 1e4, 1e-12])
def test_scaling_every_amplitude_changes_no_weight(shared, factor):
    for seed in range(5):
        drawn, rewards = population(40, seed, shared=shared)
        options = {"quantile": 0.5, "inverse_temperature": 5, "rank": 4}
        plain = consolidate(drawn, rewards, **options)
        scaled = consolidate([x.scale(factor) for x in drawn], rewards, **options)
        close(scaled.pass2_weights, plain.pass2_weights, rtol=1e-6)
        close(scaled.norm, plain.norm * factor, rtol=1e-6)
        close(scaled.eigenvalues, plain.eigenvalues * factor**2, rtol=1e-6)
        close(scaled.effective_rank, plain.effective_rank, rtol=1e-6)


def test_equal_candidates_get_equal_weights_for_rounding_is_no_dispersion():
    """Alignments and dispersions that differ in the last digit only must not be standardized."""
    for sigma in (1e-3, 0.1, 3e-7):
        for count in (3, 7, 50, 123):
            drawn = [Direction({i: sigma}) for i in range(count)]
            found = consolidate(drawn, [0.3] * count, quantile=0.5, inverse_temperature=10, rank=2)
            close(found.pass2_weights, np.full(count, 1 / count))


def test_without_compatibility_the_second_pass_is_the_first():
    drawn, rewards = population(50, shared=3)
    options = {"quantile": 0.5, "inverse_temperature": 5, "rank": 4}
    ablated = consolidate(drawn, rewards, compatibility=0.0, **options)
    np.testing.assert_array_equal(ablated.pass2_weights, ablated.pass1_weights)
    full = consolidate(drawn, rewards, **options)
    assert np.max(np.abs(full.pass2_weights - full.pass1_weights)) > 0.01
    half = consolidate(drawn, rewards, compatibility=0.5, **options)
    close(
        np.log(half.pass2_weights / half.pass2_weights[0]),
        (
            np.log(full.pass2_weights / full.pass2_weights[0])
            + np.log(ablated.pass2_weights / ablated.pass2_weights[0])
        )
        / 2,
        atol=1e-12,
    )


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(24)), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_the_order_of_candidates_changes_indices_and_nothing_else(order, quantile):
    drawn, rewards = population(24, shared=2)
    options = {"quantile": quantile, "inverse_temperature": 5, "rank": 3}
    plain = consolidate(drawn, rewards, **options)
    moved = consolidate([drawn[i] for i in order], rewards[order], **options)
    assert moved.elite.tolist() == sorted(moved.elite.tolist())
    back = np.argsort([order[i] for i in moved.elite])
    assert sorted(order[i] for i in moved.elite) == plain.elite.tolist()
    close(moved.pass2_weights[back], plain.pass2_weights, rtol=1e-9)
    close(moved.alignment[back], plain.alignment, rtol=1e-9)
    assert_same_direction(moved.mean, plain.mean, rtol=1e-9)
    close(moved.eigenvalues, plain.eigenvalues, rtol=1e-6, atol=1e-12 * plain.trace)


def test_everyone_at_the_quantile_is_elite():
    drawn, _ = population(5)
    options = {"inverse_temperature": 1, "rank": 1}
    tied = consolidate(drawn, [0.2, 0.5, 0.5, 0.1, 0.5], quantile=0.9, **options)
    assert tied.elite.tolist() == [1, 2, 4] and tied.threshold == 0.5
    between = consolidate(drawn, [0.0, 0.1, 0.2, 0.3, 0.4], quantile=0.6, **options)
    assert between.threshold == pytest.approx(0.24) and between.elite.tolist() == [3, 4]
    everyone = consolidate(drawn, [0.0, 0.1, 0.2, 0.3, 0.4], quantile=0.0, **options)
    assert everyone.elite.tolist() == [0, 1, 2, 3, 4]


def test_a_large_inverse_temperature_keeps_only_the_best_and_never_overflows():
    drawn, _ = population(4)
    options = {"quantile": 0.0, "rank": 1, "compatibility": 0.0}
    found = consolidate(drawn, [0.1, 0.9, 0.2, 0.3], inverse_temperature=1e5, **options)
    close(found.pass2_weights, [0, 1, 0, 0], atol=1e-12)
    assert_same_direction(found.mean, drawn[1])
    close(found.cloud.entropy, 0, atol=1e-12)


def test_cloud_statistics_are_those_of_the_weighted_covariance():
    drawn, rewards = population(12, shared=6)
    found = consolidate(drawn, rewards, quantile=0.2, inverse_temperature=3, rank=4)
    seeds, rows = coordinates(drawn[i] for i in found.elite)
    weights = found.pass2_weights
    mean = weights @ rows
    covariance = (weights[:, None] * (rows - mean)).T @ (rows - mean)
    values = np.linalg.eigvalsh(covariance)[::-1][: len(weights)]
    tiny = 1e-12 * np.trace(covariance)
    close(found.eigenvalues, values, rtol=1e-6, atol=tiny)
    close(found.trace, np.trace(covariance))
    close(found.norm, np.linalg.norm(mean))
    assert_same_direction(found.mean, Direction(zip(seeds.tolist(), mean, strict=True)))
    shares = values[values > tiny] / np.sum(values)
    close(found.effective_rank, math.exp(-np.sum(shares * np.log(shares))))
    close(found.kappa, found.norm**2 / found.trace, rtol=1e-5)
    close(found.ess, 1 / np.sum(weights**2))
    close(found.cloud.entropy, -np.sum(weights * np.log(weights)))
    close(found.cloud.largest_weight, np.max(weights))
    assert len(found.cloud.axes) == 4
    for j, axis in enumerate(found.cloud.axes):
        row = coordinates([axis, Direction(dict.fromkeys(seeds.tolist(), 0.0))])[1][0]
        close(covariance @ row, found.eigenvalues[j] * row, atol=tiny)
        for k, other in enumerate(found.cloud.axes):
            assert axis.dot(other) == pytest.approx(float(j == k), abs=1e-9)


@pytest.mark.parametrize(
    ("rewards", "quantile", "match"),
    [
        ([0.1, 0.2], 0.5, "3 directions"),
        ([[0.1], [0.2], [0.3]], 0.5, "3 directions"),
        ([0.1, math.nan, 0.3], 0.5, "finite"),
        ([0.1, 0.2, 0.3], 1.5, "quantile"),
        ([0.1, 0.2, 0.3], -0.1, "quantile"),
    ],
)
def test_consolidate_rejects_what_it_cannot_weigh(rewards, quantile, match):
    drawn, _ = population(3)
    with pytest.raises(ValueError, match=match):
        consolidate(drawn, rewards, quantile=quantile, inverse_temperature=1, rank=1)


def test_nothing_to_consolidate_is_an_error():
    with pytest.raises(ValueError, match="0 directions"):
        consolidate([], [], quantile=0.5, inverse_temperature=1, rank=1)
    with pytest.raises(ValueError, match="0 directions"):
        merge_positive([], [], target_ess=4, rank=1)


def test_merge_without_a_positive_score_has_no_result():
    drawn, _ = population(3)
    assert merge_positive(drawn, [0.0, -0.1, -2.0], target_ess=2, rank=2) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-20, 40), min_size=2, max_size=40),
    st.floats(1.0, 20.0),
)
def test_merge_hits_its_target_sample_size_with_weights_that_sum_to_one(counts, target):
    scores = np.array(counts) / 40
    positive = scores[scores > 0]
    assume(positive.size)
    drawn, _ = population(len(counts))
    found = merge_positive(drawn, scores, target_ess=target, rank=2)
    assert found.positive.tolist() == np.flatnonzero(scores > 0).tolist()
    assert np.sum(found.weights) == pytest.approx(1) and np.all(found.weights >= 0)
    close(found.ess, effective_sample_size(found.weights))
    order = np.argsort(positive, kind="stable")
    assert np.all(np.diff(found.weights[order]) >= -1e-12)
    best = np.count_nonzero(positive == positive.max())
    if best < positive.size and target < positive.size - 1e-6:
        assert found.ess == pytest.approx(max(target, best), rel=1e-4)
    else:
        assert found.temperature == math.inf
        close(found.weights, np.full(positive.size, 1 / positive.size))


def test_merge_weighs_only_the_positive_members():
    drawn, _ = population(6)
    mixed = merge_positive(drawn, [0.3, -1, 0.1, 0, 0.2, -0.5], target_ess=2, rank=2)
    alone = merge_positive([drawn[i] for i in (0, 2, 4)], [0.3, 0.1, 0.2], target_ess=2, rank=2)
    np.testing.assert_array_equal(mixed.weights, alone.weights)
    assert mixed.mean == alone.mean and len(mixed.mean) == 3


def test_merge_rejects_scores_that_are_not_finite():
    drawn, _ = population(2)
    with pytest.raises(ValueError, match="finite"):
        merge_positive(drawn, [0.1, math.inf], target_ess=1, rank=1)


BITS = """
import hashlib
from corp_ray.consolidate import consolidate, merge_positive
from tests.test_consolidate import population

directions, rewards = population(500)
merged = merge_positive(directions, rewards - 0.3, target_ess=200.0, rank=8)
found = consolidate(directions, rewards, quantile=0.1, inverse_temperature=5.0, rank=8)
terms = [merged.mean.terms, *(axis.terms for axis in merged.cloud.axes), found.mean.terms]
terms += [axis.terms for axis in found.cloud.axes]
print(hashlib.sha256(repr(terms).encode()).hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
    """What a resumed run samples and commits must not depend on the cores that a driver may use."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", BITS],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert len(digests) == 1
