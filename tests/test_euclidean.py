"""What the interpolated Euclidean distance promises beyond the suite: each folding of its product, and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cases import X_SHAPE, Y_SHAPE, assert_close, masks, program
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from scav_jax.distances import pairwise


@pytest.mark.parametrize("resample", ["x_to_y", "y_to_x", 3, 7])
@pytest.mark.parametrize(("n", "m"), [(2, 5), (5, 2), (3, 3), (1, 4)])
def test_one_product_equals_the_oracle(n, m, resample, rng, x64):
    """The product's inner size is that of x, of y or of the grid, whichever is the shortest."""
    x, y, weighting = rng.normal(size=(2, n, 3)), rng.normal(size=(3, m, 3)), rng.normal(size=(2, 3))
    expected = oracle.pairwise("euclidean", x, y, [n] * 2, [m] * 3, weighting, resample=resample)
    assert_close(program("euclidean", resample=resample)(x, y, None, None, weighting), expected, 1e-9, 1e-10)


def test_check_grads(rng, x64):
    x, y = jnp.asarray(rng.normal(size=(2, 3, 2))), jnp.asarray(rng.normal(size=(2, 4, 2)))
    check_grads(jax.jit(lambda x, y: pairwise("euclidean", x, y, squared=False)), (x, y), order=1, modes=["rev"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 4), m=st.integers(1, 6))
def test_known_identities(seed, n, m):
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(2, 6, 3)).astype(np.float32)
    x, y = np.tile(frames[0, :4], (4, 1, 1)), np.tile(frames[1], (3, 1, 1))

    def value(x_length, y_length, **options):
        arguments = x, y, *masks([x_length] * X_SHAPE[0], [y_length] * Y_SHAPE[0]), np.ones((4, 3), np.float32)
        return float(program("euclidean", **options)(*arguments)[0][0, 0])

    # Unit frames of one length: the mean squared distance is 2 - 2 x the mean cosine.
    length = min(n, m)
    unit = oracle.unit(frames.astype(np.float64))
    mean_cosine = np.mean(np.sum(unit[0, :length] * unit[1, :length], axis=1))
    np.testing.assert_allclose(value(length, length, unit_norm=True), 2 - 2 * mean_cosine, 1e-4, 1e-5)
    # The root of the mean square is at least the mean; and that is at least the distance of the resampled means.
    plain = value(n, m, squared=False)
    assert plain <= value(n, m) ** 0.5 * (1 + 1e-5)
    resampled_mean = np.mean(oracle.resampling(n, m) @ frames[0, :n], axis=0)
    assert plain >= np.linalg.norm(resampled_mean - np.mean(frames[1, :m], axis=0)) * (1 - 1e-5) - 1e-6
