"""Populations: prefix-stable, spread over the listed scales, and with the energy a round asks for
inside and outside the subspace of good candidates."""

import math
import pickle

import numpy as np
import pytest

from corp_ray import noise
from corp_ray.direction import Direction
from corp_ray.population import Subspace, candidate_hash, isotropic, low_rank

SIGMAS = (5e-4, 1e-3, 2e-3)
# Orthonormal axes that share seeds, as principal directions do.
AXES = (
    Direction({1: 0.6, 2: 0.8}),
    Direction({1: -0.8, 2: 0.6}),
    Direction({3: 1.0}),
)
SUBSPACE = Subspace(AXES, (6.0, 3.0, 1.0))


def later(start, stop, *, run_seed=5, round_number=1, share=0.3, subspace=SUBSPACE, rank=3):
    return low_rank(
        run_seed,
        round_number,
        start,
        stop,
        sigma=1e-3,
        isotropic_share=share,
        subspace=subspace,
        rank=rank,
    )


def test_a_larger_population_extends_a_smaller_one():
    assert isotropic(5, 0, 500, SIGMAS)[:100] == isotropic(5, 0, 100, SIGMAS)
    assert isotropic(5, 0, 500, SIGMAS)[100:] == isotropic(5, 100, 500, SIGMAS)
    assert later(0, 60)[:20] == later(0, 20)
    assert later(0, 60)[20:] == later(20, 60)


def test_seeds_differ_between_candidates_rounds_and_runs():
    seeds = {
        candidate_hash(run, round_number, index)[0]
        for run in (0, 1, 11)
        for round_number in (0, 1, 11)
        for index in range(300)
    }
    assert len(seeds) == 3 * 3 * 300
    assert all(0 <= seed <= noise.MAX_SEED for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are used


def test_an_isotropic_candidate_is_one_new_seed_at_a_listed_scale():
    for k, candidate in enumerate(isotropic(9, 0, 50, SIGMAS)):
        assert candidate.terms == ((candidate_hash(9, 0, k)[0], candidate.sigma),)
        assert candidate.sigma in SIGMAS and candidate.step == 1.0
        assert candidate.kind == "candidate" and candidate.round == 0


def test_each_listed_scale_is_drawn_about_equally_often():
    count = 3000
    drawn = [candidate.sigma for candidate in isotropic(1, 0, count, SIGMAS)]
    for sigma in SIGMAS:
        expected, deviation = count / 3, math.sqrt(count * 2 / 9)
        assert abs(drawn.count(sigma) - expected) < 4 * deviation
    alternating = np.mean(np.array(drawn[1:]) == np.array(drawn[:-1]))
    assert abs(alternating - 1 / 3) < 0.04


@pytest.mark.parametrize("share", [0.05, 0.3, 0.95])
def test_a_later_candidate_has_energy_sigma_squared_of_which_one_minus_l_is_in_the_subspace(share):
    count = 4000
    population = later(0, count, share=share)
    inside = np.array([[Direction(c.terms).dot(axis) for axis in AXES] for c in population])
    total = np.array([Direction(c.terms).norm ** 2 for c in population])
    fraction_deviation = (1 - share) * math.sqrt(2 * 0.46 / count)  # 0.46 = sum of squared shares
    assert abs(np.mean(total) / 1e-6 - 1) < 4 * fraction_deviation
    energy = np.mean(inside**2, axis=0) / 1e-6
    assert abs(np.sum(energy) - (1 - share)) < 4 * fraction_deviation
    np.testing.assert_allclose(energy, (1 - share) * np.array([0.6, 0.3, 0.1]), rtol=0.1)
    outside = total - np.sum(inside**2, axis=1)
    np.testing.assert_allclose(outside, share * 1e-6, rtol=1e-6)


def test_coordinates_in_the_subspace_are_independent_standard_normals():
    count, share = 4000, 0.3
    rows = np.array(
        [[Direction(c.terms).dot(axis) for axis in AXES] for c in later(0, count, share=share)]
    )
    g = rows / (1e-3 * np.sqrt((1 - share) * np.array([0.6, 0.3, 0.1])))
    assert np.all(np.abs(np.mean(g, axis=0)) < 4 / math.sqrt(count))
    assert np.all(np.abs(np.mean(g**3, axis=0)) < 4 * math.sqrt(15 / count))
    np.testing.assert_allclose(g.T @ g / count, np.eye(3), atol=4 * math.sqrt(2 / count))


def test_only_the_leading_axes_of_the_rank_are_used_with_shares_of_their_own_sum():
    population = later(0, 2000, rank=1)
    inside = np.array([[Direction(c.terms).dot(axis) for axis in AXES] for c in population])
    np.testing.assert_allclose(inside[:, 1:], 0, atol=1e-15)
    assert np.mean(inside[:, 0] ** 2) == pytest.approx(0.7e-6, rel=0.15)  # not 0.6 of it


@pytest.mark.parametrize("subspace", [None, Subspace((), ()), Subspace(AXES, (0.0, 0.0, 0.0))])
def test_without_a_subspace_candidates_are_isotropic(subspace):
    for k, candidate in enumerate(later(0, 20, subspace=subspace)):
        assert candidate.terms == ((candidate_hash(5, 1, k)[0], 1e-3),)


def test_axes_without_spread_take_no_energy():
    lame = Subspace(AXES, (6.0, 0.0, 0.0))
    for candidate in later(0, 20, subspace=lame):
        x = Direction(candidate.terms)
        assert x.dot(AXES[0]) != 0 and x.dot(AXES[1]) == pytest.approx(0, abs=1e-15)
        assert 3 not in dict(candidate.terms)


def test_candidate_ids_are_unique_over_a_run():
    everyone = isotropic(5, 0, 200, SIGMAS) + later(0, 200) + later(0, 200, round_number=11)
    assert len({candidate.id for candidate in everyone}) == 600


def test_candidates_pickle_and_hash():
    for candidate in (*isotropic(5, 0, 3, SIGMAS), *later(0, 3)):
        again = pickle.loads(pickle.dumps(candidate))
        assert again == candidate and again.digest == candidate.digest
        assert hash(again) == hash(candidate)
        assert Direction(candidate.terms).terms == candidate.terms


def test_a_later_candidate_is_the_sum_of_its_parts_term_by_term():
    """Bit for bit: what is sampled in one go is what adding one axis after another gives."""
    for k, candidate in enumerate(later(0, 30)):
        seed, _ = candidate_hash(5, 1, k)
        draws = noise.gaussian(seed, "corp_ray/population/subspace", 0, 3).astype(float)
        x = Direction({seed: 1e-3 * math.sqrt(0.3)})
        for axis, eigenvalue, g in zip(AXES, (6.0, 3.0, 1.0), draws.tolist(), strict=True):
            x = x + axis.scale(1e-3 * math.sqrt(0.7 * eigenvalue / 10.0) * g)
        assert candidate.terms == x.terms
