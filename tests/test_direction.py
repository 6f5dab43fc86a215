"""Directions: the algebra of vectors on seed axes, order, immutability, pickling, errors."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corp_ray.direction import Direction, coordinates, from_coordinates, sparse_rows

AMPLITUDES = st.floats(-10, 10).filter(lambda a: a == 0 or abs(a) > 1e-6)
TERMS = st.dictionaries(st.integers(0, 12) | st.just(2**63 - 1), AMPLITUDES, max_size=6)


def dense(direction):
    """The same vector as plain coordinates over every seed the strategy can draw."""
    row = dict(direction.terms)
    return np.array([row.get(seed, 0.0) for seed in (*range(13), 2**63 - 1)])


def test_terms_are_ascending_by_seed_whatever_the_order_given():
    expected = ((1, 0.5), (7, -2.0), (2**63 - 1, 3.0))
    assert Direction({2**63 - 1: 3.0, 1: 0.5, 7: -2.0}).terms == expected
    assert Direction([(7, -2), (2**63 - 1, 3), (1, 0.5)]).terms == expected
    assert Direction(iter(expected)).terms == expected


def test_repeated_seeds_add_up():
    assert Direction([(4, 1.0), (2, 5.0), (4, 0.25)]).terms == ((2, 5.0), (4, 1.25))


def test_terms_are_python_numbers_even_when_given_numpy_ones():
    ((seed, amplitude),) = Direction([(np.uint64(3), np.float32(0.5))]).terms
    assert type(seed) is int and type(amplitude) is float


@given(TERMS, TERMS, st.floats(-100, 100))
def test_algebra_is_that_of_vectors(x_terms, y_terms, factor):
    x, y = Direction(x_terms), Direction(y_terms)
    np.testing.assert_allclose(dense(x + y), dense(x) + dense(y), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dense(x.scale(factor)), factor * dense(x))
    assert x.dot(y) == pytest.approx(dense(x) @ dense(y), abs=1e-9)
    assert x.norm == pytest.approx(np.linalg.norm(dense(x)), abs=1e-12)
    assert (x + y).terms == (y + x).terms


@given(TERMS, TERMS)
def test_cosine_is_the_product_of_unit_directions_and_zero_for_a_null_one(x_terms, y_terms):
    x, y = Direction(x_terms), Direction(y_terms)
    assert x.cosine(y) == pytest.approx(x.unit().dot(y.unit()), abs=1e-9)
    assert -1 - 1e-12 <= x.cosine(y) <= 1 + 1e-12
    assert x.cosine(Direction()) == 0.0
    if x.norm:
        assert x.unit().norm == pytest.approx(1) and x.cosine(x) == pytest.approx(1)


def test_norm_is_the_root_of_summed_squares():
    assert Direction({1: 3.0, 2: -4.0}).norm == 5.0
    assert Direction().norm == 0.0
    assert Direction().unit() == Direction()


def test_a_direction_cannot_be_changed():
    x = Direction({1: 2.0})
    with pytest.raises(AttributeError):
        x.terms = ()
    with pytest.raises(AttributeError):
        x.other = 1
    with pytest.raises(TypeError):
        x.terms[0] = (1, 3.0)
    source = {1: 2.0}
    kept = Direction(source)
    source[1] = 9.0
    assert kept.terms == ((1, 2.0),)


def test_equal_directions_are_equal_keys():
    a, b = Direction({1: 2.0, 5: 1.0}), Direction([(5, 1.0), (1, 2.0)])
    assert a == b and hash(a) == hash(b) and len(a) == 2
    assert a != Direction({1: 2.0}) and a != ((1, 2.0), (5, 1.0))


def test_pickling_changes_nothing():
    x = Direction({2**63 - 1: 1e-3 / 3, 0: -1e-300})
    again = pickle.loads(pickle.dumps(x))
    assert again == x and again.terms == x.terms


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_outside_63_bits_is_an_error(seed):
    with pytest.raises(ValueError, match="seed"):
        Direction({seed: 1.0})


@pytest.mark.parametrize("amplitude", [math.nan, math.inf, -math.inf])
def test_an_amplitude_that_is_not_finite_is_an_error(amplitude):
    with pytest.raises(ValueError, match="finite"):
        Direction({1: amplitude})


def test_coordinates_lay_directions_on_their_shared_axes():
    seeds, rows = coordinates([Direction({9: 1.0, 2: 2.0}), Direction(), Direction({5: 3.0})])
    assert seeds.dtype == np.uint64 and seeds.tolist() == [2, 5, 9]
    np.testing.assert_array_equal(rows, [[2, 0, 1], [0, 0, 0], [0, 3, 0]])


def test_sparse_rows_hold_every_term_once_beside_its_direction_and_seed():
    found = sparse_rows(
        [Direction({9: 1.0, 2: 2.0}), Direction(), Direction({2**63 - 1: 3.0, 9: 0.0})]
    )
    assert found.count == 3 and found.seeds.tolist() == [2, 9, 2**63 - 1]
    assert found.rows.tolist() == [0, 0, 2, 2]
    assert found.seeds[found.columns].tolist() == [2, 9, 9, 2**63 - 1]
    assert found.amplitudes.tolist() == [2.0, 1.0, 0.0, 3.0]
    assert sparse_rows([]).dense().shape == (0, 0)


@given(TERMS)
def test_coordinates_and_back_is_the_same_direction_without_its_zeros(terms):
    seeds, rows = coordinates([Direction(terms)])
    kept = Direction({seed: a for seed, a in terms.items() if a != 0})
    assert from_coordinates(seeds, rows[0]) == kept
