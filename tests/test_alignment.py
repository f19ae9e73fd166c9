"""distances.alignment: which frame goes with which step, for each distance."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import oracle
import pytest
from cases import CASES, X_SHAPE, Y_SHAPE, program

from scav_jax import distances
from scav_jax.shapes import prefix_mask

LENGTHS = [(4, 6), (4, 2), (1, 6), (3, 1), (1, 1)]


@functools.cache
def compiled(name, **options):
    return jax.jit(functools.partial(distances.alignment, name, **options))


def pair(rng, dtype=np.float64):
    return rng.normal(size=X_SHAPE[1:]).astype(dtype), rng.normal(size=Y_SHAPE[1:]).astype(dtype)


def padded(n, m):
    return prefix_mask(jnp.array([n]), X_SHAPE[1])[0], prefix_mask(jnp.array([m]), Y_SHAPE[1])[0]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case, rng, x64):
    name, options = CASES[case]
    x, y = pair(rng)
    np.testing.assert_allclose(compiled(name, **options)(x, y), oracle.alignment(name, x, y, **options), 1e-8, 1e-9)
    for n, m in LENGTHS:
        table = compiled(name, **options)(x, y, *padded(n, m))
        expected = np.zeros((4, 6))
        expected[:n, :m] = oracle.alignment(name, x[:n], y[:m], **options)
        np.testing.assert_allclose(table, expected, 1e-8, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_padding_changes_nothing(case, rng):
    name, options = CASES[case]
    x, y = pair(rng, np.float32)
    table = compiled(name, **options)(x, y, *padded(3, 2))
    assert table.shape == (4, 6)
    assert table.dtype == jnp.float32
    assert np.all(np.asarray(table) >= 0)
    assert not np.any(table[3:])
    assert not np.any(table[:, 2:])
    x[3:], y[2:] = np.nan, 1e18
    np.testing.assert_array_equal(compiled(name, **options)(x, y, *padded(3, 2)), table)


@pytest.mark.parametrize(("n", "m"), LENGTHS)
def test_sums(n, m, rng):
    x, y = pair(rng, np.float32)

    def table(name, **options):
        return np.asarray(compiled(name, **options)(x, y, *padded(n, m)))[:n, :m]

    np.testing.assert_allclose(table("euclidean").sum(axis=0), np.ones(m), 1e-6)
    np.testing.assert_allclose(table("euclidean", resample="y_to_x").sum(axis=1), np.ones(n), 1e-6)
    np.testing.assert_allclose(table("euclidean", resample=5).sum(), 5, 1e-6)
    np.testing.assert_allclose(table("cosine"), np.full((n, m), 1 / (n * m)), 1e-6)
    plan = table("wasserstein", epsilon=10.0, num_iterations=100)
    np.testing.assert_allclose(plan.sum(axis=1), np.full(n, 1 / n), 1e-5)
    np.testing.assert_allclose(plan.sum(axis=0), np.full(m, 1 / m), 1e-5)
    for gamma in (0, 1.0):
        expected = table("dtw", gamma=gamma)
        np.testing.assert_allclose([expected[0, 0], expected[-1, -1]], 1, 1e-5)
        # Every path visits every row and every column.
        assert min(expected.sum(axis=0).min(), expected.sum(axis=1).min()) > 1 - 1e-5
    path = table("dtw", gamma=0)
    assert set(np.unique(path)) <= {0.0, 1.0}
    steps = np.diff(np.argwhere(path), axis=0)
    assert {tuple(step) for step in steps} <= {(0, 1), (1, 0), (1, 1)}


def test_hard_path_prefers_the_diagonal():
    """Where all costs are equal, read from the end: diagonals, then what is left of the longer side."""
    x, y = np.ones(X_SHAPE[1:], np.float32), np.zeros(Y_SHAPE[1:], np.float32)
    for n, m in ((4, 4), (4, 2), (2, 6)):
        table = compiled("dtw", gamma=0)(x, y, *padded(n, m))
        np.testing.assert_array_equal(table[:n, :m], oracle.soft_dtw(np.ones((n, m)), 0)[1])


def test_transport_plan_is_the_last_one_even_unconverged(rng, x64):
    x, y = pair(rng)
    options = dict(epsilon=0.5, num_iterations=2)
    plan = compiled("wasserstein", **options)(x, y)
    np.testing.assert_allclose(plan.sum(axis=1), np.full(4, 1 / 4), 1e-12)  # f was updated last
    assert np.max(np.abs(plan.sum(axis=0) - 1 / 6)) > 1e-6


@pytest.mark.parametrize(("n", "m"), LENGTHS)
def test_euclidean_columns_resample_x(n, m, rng, x64):
    x, y = pair(rng)
    table = compiled("euclidean")(x, y, *padded(n, m))
    np.testing.assert_allclose(table.T[:m] @ x, oracle.resampling(n, m) @ x[:n], 1e-9, 1e-12)


@pytest.mark.parametrize(("name", "options"), [("dtw", {"gamma": 0.5}), ("wasserstein", {"num_iterations": 9})])
def test_weighs_the_gradient_in_the_costs(name, options, rng, x64):
    """Against an independent route: the gradient of pairwise is the costs' gradient under the alignment."""
    x, y = pair(rng)
    table = compiled(name, **options)(x, y)
    unnormalised = {"normalize": False} if name == "dtw" else {}
    _, gradient, _ = program(name, **options, **unnormalised)(x[None], y[None], None, None, np.ones((1, 1)))
    expected, _ = oracle.ground_costs_vjp(x, y, "sqeuclidean", np.asarray(table))
    np.testing.assert_allclose(gradient[0], expected, 1e-8, 1e-10)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("distance: expected one of", {"name": "manhattan"}),
        ("unknown option 'gama'", {"gama": 1.0}),
        ("gamma: expected", {"gamma": -1.0}),
        ("x and y: expected one width", {"y": jnp.ones((6, 2))}),
        ("x_mask: expected a prefix", {"x_mask": jnp.zeros(4, bool)}),
    ],
)
def test_bad_input_is_named(message, changes, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without shape types
    with pytest.raises(ValueError, match=message):
        distances.alignment(**{"name": "dtw", "x": jnp.ones((4, 3)), "y": jnp.ones((6, 3)), **changes})
