"""Lower bounds of every distance never exceed it, and are worth having on sequences that have structure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import heavy_unless
from hypothesis import given, settings
from hypothesis import strategies as st

from scav_jax.distances import first_dual, pairwise
from scav_jax.retrieval import bounds
from scav_jax.shapes import prefix_mask

OPTIONS = {
    "euclidean": {"unit_norm": True},
    "euclidean-reversed": {"resample": "y_to_x"},
    "euclidean-plain": {"squared": False, "unit_norm": True},
    "euclidean-grid": {"resample": 9},
    "euclidean-bfloat16": {"unit_norm": True, "precision": "bfloat16"},
    "wasserstein": {"unit_norm": True, "epsilon": 0.1, "num_iterations": 1, "position_weight": 1.0},
    "wasserstein-converged": {"epsilon": 0.5, "num_iterations": 200},
    "wasserstein-plain": {"cost": "euclidean", "epsilon": 0.05, "num_iterations": 20},
    "wasserstein-cosine": {"cost": "cosine", "epsilon": 0.05, "num_iterations": 5, "position_weight": 2.0},
    "wasserstein-debiased": {"debiased": True, "num_iterations": 200, "epsilon": 0.3},
    "dtw": {"gamma": 0.1, "unit_norm": True},
    "dtw-hard": {"gamma": 0, "cost": "euclidean"},
    "dtw-soft": {"gamma": 1.0, "normalize": False},
    "dtw-cosine": {"gamma": 0.1, "cost": "cosine"},
    "dtw-debiased": {"gamma": 0.1, "debiased": True},
    "dtw-debiased-sum": {"gamma": 1.0, "debiased": True, "normalize": False},
}


@functools.cache
def programs(case):
    """Distances and bounds of a case, each compiled once for every shape."""
    name, options = case.partition("-")[0], OPTIONS[case]

    def lower(x, y, x_mask, y_mask, seen):
        sides = (x, x_mask), (y, y_mask)
        length = bounds.common_length(name, x.shape[1], y.shape[1], masked=x_mask is not None, **options)
        near = (bounds.reduce(name, *side, seen, length=length, **options) or bounds.Reduced(*side) for side in sides)
        return bounds.lower_bounds(name, *near, *(bounds.facts(name, *side, **options) for side in sides), **options)

    return jax.jit(functools.partial(pairwise, name, **options)), jax.jit(lower)


def both(case, x, y, masks, rank):
    exact, lower = programs(case)
    seen = bounds.basis([np.asarray(side).reshape(-1, side.shape[2]) for side in (x, y)], rank)
    return np.asarray(exact(x, y, *masks)), np.asarray(lower(x, y, *masks, seen))


@pytest.mark.parametrize("case", [heavy_unless("debiased" not in case, case) for case in OPTIONS])
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    ragged=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    alike=st.booleans(),
)
def test_no_bound_exceeds_its_distance(case, seed, ragged, scale, alike):
    rng = np.random.default_rng(seed)
    x, y = (scale * rng.normal(size=shape).astype(np.float32) for shape in ((5, 4, 6), (7, 6, 6)))
    if alike:  # near distances of 0 rounding is all there is
        y[:5, :4], y[:5, 4:] = x, x[:, -1:]
    x, y = jnp.asarray(x), jnp.asarray(y)
    masks = (None, None)
    if ragged:
        lengths = (rng.integers(1, side.shape[1] + 1, len(side)) for side in (x, y))
        masks = tuple(prefix_mask(jnp.asarray(n), side.shape[1]) for n, side in zip(lengths, (x, y), strict=True))
    exact, found = both(case, x, y, masks, rank=1 if ragged else 4)  # of each two programs to compile
    assert found.shape == exact.shape
    assert (found <= exact).all(), (found - exact).max()


@pytest.mark.parametrize("case", ["euclidean", "wasserstein", "dtw-hard"])
def test_bounds_of_sequences_with_structure_prune(case):
    """Walks in a few directions: the bound of most pairs is above the distance of the matched one."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, 32))
    walk = np.cumsum(rng.normal(size=(60, 12, 4)), axis=1) @ directions
    x, y = (jnp.asarray(walk + rng.normal(0, 0.3, walk.shape), jnp.float32) for _ in range(2))
    exact, found = both(case, x, y, (None, None), 5)
    assert (found <= exact).all()
    assert np.mean(found > np.diagonal(exact)[:, None]) > 0.8


@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_wasserstein_is_bounded_by_its_first_iteration(rng, scale):
    """The sharpest bound of its kind: it is that iteration but where whole rows underflow, far away, and then less."""
    x, y = (jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for shape in ((5, 4, 6), (7, 6, 6)))
    masks = prefix_mask(jnp.array([1, 2, 3, 4, 4]), 4), prefix_mask(jnp.array([6, 6, 5, 4, 3, 2, 1]), 6)
    options = {"epsilon": 0.5, "position_weight": 1.0}
    first = np.asarray(pairwise("wasserstein", x, y, *masks, num_iterations=1, **options))
    found = np.asarray(first_dual(x, y, *masks, **options))
    if scale < 1:
        np.testing.assert_allclose(found, first, rtol=1e-5)
    else:
        assert (found <= first * (1 + 1e-6)).all()
        assert (found < first * (1 - 1e-3)).any()


def test_self_terms_are_half_the_distance_to_oneself(rng):
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    found = bounds.facts("dtw", x, None, gamma=0.5, debiased=True)
    expected = np.diagonal(np.asarray(pairwise("dtw", x, x, gamma=0.5, normalize=False))) / 2
    np.testing.assert_allclose(found.self_share, expected, rtol=1e-5, atol=1e-5)
    assert found.lengths.tolist() == [5, 5, 5]
    assert not bounds.facts("dtw", x, None, gamma=0.5).self_share.any()


def test_the_basis_is_orthonormal_and_goes_where_frames_vary(rng):
    frames = 3 + rng.normal(size=(400, 8)).astype(np.float32) * np.array([1, 9, 1, 1, 5, 1, 1, 1], np.float32)
    found = bounds.basis([frames[:100], frames[100:]], 2)
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(2), atol=1e-6)
    assert np.argmax(np.abs(found.directions), axis=0).tolist() == [1, 4]
    np.testing.assert_allclose(found.centre, (frames[:100].mean(0) + frames[100:].mean(0)) / 2, rtol=1e-5)
    assert bounds.basis([frames], 20).directions.shape == (8, 8)
    reduced = bounds.reduced(jnp.asarray(frames[None]), jnp.asarray(found.directions))
    np.testing.assert_allclose(jnp.sum(reduced**2, axis=-1)[0], np.sum(frames**2, axis=1), rtol=1e-4)


def test_what_has_no_bound_is_named(rng):
    x = jnp.ones((1, 2, 3))
    with pytest.raises(ValueError, match="expected one of euclidean, dtw, wasserstein to bound, got 'cosine'"):
        bounds.reduce("cosine", x, None, bounds.Basis(np.zeros(3), np.eye(3)[:, :2]))
