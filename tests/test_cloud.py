"""Clouds of many members: the secular equation against plain linear algebra, on any weights and
amplitudes; the disjoint form against the dense one; sizes that only the former can hold."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corp_ray import cloud, secular
from corp_ray.cloud import DenseMembers, DisjointMembers, cloud_statistics, members_of
from corp_ray.consolidate import consolidate, merge_positive, softmax
from corp_ray.direction import Direction, sparse_rows

EPS = np.finfo(float).eps


def weights_of(numbers):
    numbers = np.asarray(numbers, float)
    return numbers / np.sum(numbers)


def covariance(d, v):
    m = np.sqrt(v * d)
    return np.diag(d) - np.outer(m, m)


# Weights and amplitudes from few values, so that ties are many, or from very many.
WEIGHTS = st.sampled_from([0.0, 1e-30, 1e-6, 0.5, 1.0]) | st.floats(1e-12, 1.0)
AMPLITUDES = st.sampled_from([0.0, 5e-4, 1e-3, 2e-3]) | st.floats(1e-6, 1.0)
MEMBERS = st.lists(st.tuples(WEIGHTS, AMPLITUDES), min_size=1, max_size=60).filter(
    lambda listed: sum(weight for weight, _ in listed) > 1e-6
)


def both(amplitudes, weights, rank=4):
    """The same cloud in its disjoint and its dense form."""
    directions = [
        Direction({10 + i: 0.6 * a, 1000 + i: 0.8 * a} if i % 3 == 0 else {10 + i: a})
        for i, a in enumerate(amplitudes)
    ]
    sparse = sparse_rows(directions)
    forms = DisjointMembers(sparse), DenseMembers(sparse)
    return [cloud_statistics(form, weights, rank) for form in forms]


def assert_axes_are_principal(found, amplitudes, weights, tolerance):
    """Orthonormal, and eigenvectors of the covariance to within `tolerance` of its trace."""
    _, dense = both(amplitudes, weights)
    rows_MS = DenseMembers(
        sparse_rows(
            Direction({10 + i: 0.6 * a, 1000 + i: 0.8 * a} if i % 3 == 0 else {10 + i: a})
            for i, a in enumerate(amplitudes)
        )
    )._rows_MS
    spread = np.sqrt(weights)[:, None] * (rows_MS - weights @ rows_MS)
    axes = found.axes_RS
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-12)
    moved = (axes @ spread.T) @ spread
    off = moved - found.eigenvalues[: len(axes), None] * axes
    assert np.max(np.abs(off), initial=0.0) <= tolerance * max(dense.trace, 1e-300)


@settings(max_examples=200, deadline=None)
@given(MEMBERS)
def test_disjoint_members_have_the_statistics_of_the_dense_decomposition(listed):
    weights = weights_of([weight for weight, _ in listed])
    amplitudes = np.array([amplitude for _, amplitude in listed])
    found, dense = both(amplitudes, weights)
    size = float(weights @ amplitudes**2)
    assert found.eigenvalues.shape == dense.eigenvalues.shape
    np.testing.assert_allclose(found.eigenvalues, dense.eigenvalues, atol=64 * EPS * size, rtol=0)
    np.testing.assert_allclose(found.trace, dense.trace, rtol=1e-12, atol=64 * EPS * size)
    np.testing.assert_allclose(found.norm, dense.norm, rtol=1e-13)
    if dense.trace > 1e-9 * size:
        assert found.effective_rank == pytest.approx(dense.effective_rank, rel=1e-9)
    assert np.all(np.diff(found.eigenvalues) <= 0) and np.all(found.eigenvalues >= 0)
    assert found.mean == dense.mean
    if dense.trace > 1e-6 * size:
        assert_axes_are_principal(found, amplitudes, weights, 1e-10)


@settings(max_examples=50, deadline=None)
@given(MEMBERS, st.sampled_from([1e-4, 1e-12, 1e4]))
def test_scaling_every_amplitude_scales_the_eigenvalues_by_its_square(listed, factor):
    weights = weights_of([weight for weight, _ in listed])
    amplitudes = np.array([amplitude for _, amplitude in listed])
    plain, _ = both(amplitudes, weights)
    scaled, _ = both(amplitudes * factor, weights)
    size = float(weights @ amplitudes**2)
    np.testing.assert_allclose(
        scaled.eigenvalues / factor**2, plain.eigenvalues, rtol=1e-9, atol=64 * EPS * size
    )


def ascending(count, seed, spread):
    """Poles and weights of a cloud whose weights span e^spread."""
    rng = np.random.default_rng(seed)
    v = softmax(spread * rng.random(count))
    d = v * rng.choice([0.25, 1.0, 4.0], count)
    order = np.argsort(d)
    return d[order], v[order]


@pytest.mark.parametrize("spread", [0.01, 3.0, 60.0])
@pytest.mark.parametrize("count", [1, 2, 3, 40, 900])
def test_roots_are_the_eigenvalues_of_the_diagonal_less_an_outer_product(count, spread):
    d, v = ascending(count, count, spread)
    found = secular.roots(d, v)
    assert len(found.values) == count - 1
    assert np.all(d[:-1] <= found.values) and np.all(found.values <= d[1:])
    expected = np.linalg.eigvalsh(covariance(d, v))[1:]
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=count * EPS * d[-1])
    total = np.sum(d * (1 - v))
    np.testing.assert_allclose(np.sum(found.values), total, rtol=1e-13, atol=4 * EPS * d[-1])


def test_many_small_blocks_and_one_large_block_find_the_same_roots(monkeypatch):
    """Far poles enter through polynomials, near ones one by one: where the line lies is no matter."""
    for spread in (0.01, 3.0, 60.0):
        d, v = ascending(2000, 7, spread)
        monkeypatch.setattr(secular, "BLOCK", 2000)
        monkeypatch.setattr(secular, "CELLS", 1 << 30)
        whole = secular.roots(d, v)
        assert [near for *_, near in secular._blocks(d)] == [slice(0, 2000)]
        monkeypatch.setattr(secular, "BLOCK", 40)
        monkeypatch.setattr(secular, "CELLS", 4000)
        cut = secular.roots(d, v)
        assert min(near.stop - near.start for *_, near in secular._blocks(d)) < 200
        np.testing.assert_allclose(cut.values, whole.values, rtol=4 * EPS)


def test_poles_one_rounding_apart_keep_a_root_between_them():
    d = np.array([0.5, np.nextafter(1.0, 0.0), 1.0, np.nextafter(1.0, 2.0), 3.0])
    found = secular.roots(d, np.full(5, 0.2))
    assert np.all(d[:-1] <= found.values) and np.all(found.values <= d[1:])
    for k in (1, 2):
        assert found.minus_root(k, d)[k] < 0 < found.minus_root(k, d)[k + 1]


def test_only_members_that_share_no_seed_and_are_many_take_the_disjoint_form(monkeypatch):
    apart = [Direction({i: 1e-3}) for i in range(20)]
    assert isinstance(members_of(apart), DenseMembers)
    monkeypatch.setattr(cloud, "DENSE_MEMBERS", 19)
    assert isinstance(members_of(apart), DisjointMembers)
    assert isinstance(members_of([*apart, Direction({0: 1.0})]), DenseMembers)


def test_the_form_of_the_members_changes_no_weight_and_no_mean(monkeypatch):
    rng = np.random.default_rng(3)
    drawn = [Direction({50 + i: rng.choice([5e-4, 1e-3, 2e-3])}) for i in range(120)]
    rewards, scores = rng.integers(0, 30, 120) / 30, rng.integers(-5, 9, 120) / 30
    options = {"quantile": 0.3, "inverse_temperature": 10, "rank": 3}
    dense = consolidate(drawn, rewards, **options)
    dense_merge = merge_positive(drawn, scores, target_ess=8, rank=3)
    monkeypatch.setattr(cloud, "DENSE_MEMBERS", 1)
    disjoint = consolidate(drawn, rewards, **options)
    merge = merge_positive(drawn, scores, target_ess=8, rank=3)
    np.testing.assert_array_equal(disjoint.pass2_weights, dense.pass2_weights)
    np.testing.assert_array_equal(disjoint.alignment, dense.alignment)
    assert disjoint.mean == dense.mean and merge.mean == dense_merge.mean
    np.testing.assert_allclose(disjoint.eigenvalues, dense.eigenvalues, rtol=1e-9, atol=1e-20)
    assert len(disjoint.cloud.axes) == 3
    for ours, theirs in zip(merge.cloud.axes, dense_merge.cloud.axes, strict=True):
        if merge.eigenvalues[0] - merge.eigenvalues[3] > 0:
            assert ours.norm == pytest.approx(theirs.norm)


def test_too_many_members_that_share_seeds_are_refused_with_their_number(monkeypatch):
    monkeypatch.setattr(cloud, "DENSE_COORDINATES", 50)
    with pytest.raises(ValueError, match="8 directions that share seeds, 9 seeds"):
        members_of([Direction({i: 1e-3, 100: 1e-3}) for i in range(8)])


@pytest.mark.parametrize("steps", [500, None], ids=["rewards in steps", "rewards all distinct"])
def test_memory_grows_with_members_and_not_with_their_square(steps):
    """20,000 members: their coordinates alone, as a matrix, would be 3.2 GB."""
    rng = np.random.default_rng(5)
    drawn = [Direction({i: s}) for i, s in enumerate(rng.choice([5e-4, 1e-3, 2e-3], 20_000))]
    rewards = rng.integers(0, steps, 20_000) / steps if steps else rng.random(20_000)
    tracemalloc.start()
    found = consolidate(drawn, rewards, quantile=0.0, inverse_temperature=5, rank=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    d = found.pass2_weights * np.array([x.norm**2 for x in drawn])
    assert found.trace == pytest.approx(float(np.sum(d * (1 - found.pass2_weights))), rel=1e-12)
    assert found.eigenvalues[-1] == 0 and np.count_nonzero(found.eigenvalues) == 19_999
    top = np.sort(d)[::-1]
    assert np.all(found.eigenvalues[:-1] <= top[:-1] * (1 + 4 * EPS))
    assert np.all(found.eigenvalues[:-1] >= top[1:] * (1 - 4 * EPS))
    axes = found.cloud.axes_RS
    np.testing.assert_allclose(axes @ axes.T, np.eye(8), atol=1e-12)
