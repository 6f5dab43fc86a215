"""The split-half analysis against a literal reimplementation, and on tables of known structure."""

import numpy as np
import pytest

from corp_ray.consolidate import consolidate
from corp_ray.direction import Direction, sparse_rows
from corp_ray.split_half import (
    ConsolidationPoint,
    Products,
    draw_halves,
    half_means,
    pass2_weights,
    permuted,
    spearman_brown,
    split_half,
    subspace_overlap,
)
from corp_ray.split_half import (
    tested as beside_null,
)
from tests.rewards import planted

AT = ConsolidationPoint(0.5, 5.0)


def isotropic(candidates):
    return [Direction({100 + i: (0.5, 1.0, 2.0)[i % 3] * 1e-3}) for i in range(candidates)]


def sharing(candidates, rng):
    draws = rng.standard_normal((candidates, 3)) * 1e-3
    return [Direction({1: a, 2: b, 3: c, 100 + i: 1e-3}) for i, (a, b, c) in enumerate(draws)]


def literal(rewards_NE, directions, halves_HE, at, most):
    """The three statistics as their definition reads: one halving, one candidate at a time."""
    correlations, cosines, overlaps = [], [], []
    for half_E in halves_HE:
        means, found, subspaces = [], [], []
        for columns in (np.flatnonzero(half_E), np.flatnonzero(~half_E)):
            part = rewards_NE[:, columns]
            means.append(part.mean(axis=1))
            found.append(
                consolidate(
                    directions,
                    means[-1],
                    quantile=at.quantile,
                    inverse_temperature=at.inverse_temperature,
                    rank=1,
                    compatibility=at.compatibility,
                ).mean
            )
            subspaces.append(np.linalg.svd(part - part.mean(axis=0), full_matrices=False)[0])
        correlations.append(np.corrcoef(*means)[0, 1])
        cosines.append(found[0].cosine(found[1]))
        overlaps.append(
            [
                np.mean(np.linalg.svd(subspaces[0][:, :r].T @ subspaces[1][:, :r])[1] ** 2)
                for r in range(1, most + 1)
            ]
        )
    r = np.mean(correlations)
    return np.array([2 * r / (1 + abs(r)), np.mean(cosines), *np.mean(overlaps, axis=0)])


@pytest.mark.parametrize("shared", [False, True])
def test_every_statistic_and_its_null_equal_a_literal_reimplementation(shared):
    rng = np.random.default_rng(3)
    rewards_NE = rng.random((9, 10))
    directions = sharing(9, rng) if shared else isotropic(9)
    found = split_half(
        rewards_NE,
        Products(sparse_rows(directions)),
        AT,
        halvings=6,
        permutations=19,
        most_rank=3,
        rng=np.random.default_rng(5),
    )
    rng = np.random.default_rng(5)
    halves_HE = draw_halves(10, 6, rng)
    values = literal(rewards_NE, directions, halves_HE, AT, 3)
    null = np.array(
        [literal(permuted(rewards_NE, rng), directions, halves_HE, AT, 3) for _ in range(19)]
    )
    results = [found.reliability, found.direction_cosine, *found.subspace_overlap]
    for result, value, null_P in zip(results, values, null.T, strict=True):
        assert result.value == pytest.approx(value, abs=1e-9)
        assert result.null_mean == pytest.approx(np.mean(null_P), abs=1e-9)
        assert result.null_p95 == pytest.approx(np.quantile(null_P, 0.95), abs=1e-9)
        assert result.p_value == (1 + sum(null_P >= value)) / 20


@pytest.mark.parametrize("at", [AT, ConsolidationPoint(0.8, 50.0), ConsolidationPoint(0.3, 1.0, 0)])
def test_weights_of_many_halves_at_once_are_those_of_consolidate(at):
    rng = np.random.default_rng(1)
    rewards_NE = (rng.random((30, 12)) < 0.4).astype(float)  # many ties
    means_NH, _ = half_means(rewards_NE, draw_halves(12, 5, rng))
    for directions in (isotropic(30), sharing(30, rng), [Direction({i: 1e-3}) for i in range(30)]):
        weights_NH = pass2_weights(Products(sparse_rows(directions)), means_NH, at)
        for means_N, weights_N in zip(means_NH.T, weights_NH.T, strict=True):
            one = consolidate(
                directions,
                means_N,
                quantile=at.quantile,
                inverse_temperature=at.inverse_temperature,
                rank=1,
                compatibility=at.compatibility,
            )
            expected_N = np.zeros(30)
            expected_N[one.elite] = one.pass2_weights
            np.testing.assert_allclose(weights_N, expected_N, rtol=1e-9, atol=1e-15)


def test_halves_are_disjoint_and_cover_all_examples():
    halves_HE = draw_halves(11, 40, np.random.default_rng(0))
    assert halves_HE.shape == (40, 11) and set(halves_HE.sum(axis=1)) == {5}
    assert len({tuple(half) for half in halves_HE}) > 30


def test_permuting_keeps_how_hard_every_example_is():
    rewards_NE = np.random.default_rng(0).random((8, 5))
    shuffled = permuted(rewards_NE, np.random.default_rng(1))
    assert not np.array_equal(shuffled, rewards_NE)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(rewards_NE, axis=0))


def test_spearman_brown_is_the_formula_and_stays_in_range():
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(1.0) == 1.0 and spearman_brown(-1.0) == -1.0 and spearman_brown(0) == 0


def test_p_counts_the_value_itself_and_ties_against_it():
    result = beside_null(2.0, np.array([1.0, 2.0, 3.0, 0.0]))
    assert result.p_value == 3 / 5 and result.null_mean == 1.5


def test_an_ability_makes_all_three_significant_and_shuffled_rewards_none_too_often():
    rng = np.random.default_rng(11)
    products = Products(sparse_rows(isotropic(40)))

    def p_values(table_NE):
        found = split_half(
            table_NE, products, AT, halvings=8, permutations=39, most_rank=1, rng=rng
        )
        return [
            found.reliability.p_value,
            found.direction_cosine.p_value,
            found.subspace_overlap[0].p_value,
        ]

    table_NE = planted(1, 40, 60, rng, one_sign=True)
    assert max(p_values(table_NE)) == 1 / 40
    null = np.array([p_values(permuted(table_NE, rng)) for _ in range(30)])
    # At most 5 % each; 6 of 30 or more would happen once in 300.
    assert np.all(np.sum(null <= 0.05, axis=0) <= 5)


def test_a_half_without_any_difference_counts_as_zero_and_gives_no_nan():
    table_NE = np.zeros((6, 8))
    table_NE[0, 0] = 1.0
    found = split_half(
        table_NE,
        Products(sparse_rows(isotropic(6))),
        AT,
        halvings=10,
        permutations=19,
        most_rank=8,
        rng=np.random.default_rng(0),
    )
    assert found.reliability.value == 0.0
    assert all(np.isfinite(one.value) for one in (found.direction_cosine, *found.subspace_overlap))
    assert found.subspace_overlap[0].value == 0.0


def test_equal_halves_overlap_wholly_and_random_subspaces_by_their_share_of_dimensions():
    rng = np.random.default_rng(2)
    part_NE = rng.standard_normal((20, 30))
    halves_HE = np.array([[True] * 30 + [False] * 30])
    same = subspace_overlap(np.hstack([part_NE, part_NE]), halves_HE, 4)
    np.testing.assert_allclose(same, 1.0, atol=1e-9)
    many = np.mean(
        [subspace_overlap(rng.standard_normal((20, 60)), halves_HE, 4) for _ in range(200)], axis=0
    )
    np.testing.assert_allclose(many, np.arange(1, 5) / 19, atol=0.02)
