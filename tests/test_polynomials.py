"""The elementary functions of soft-DTW against NumPy's in float64, over all of their range."""

import jax.numpy as jnp
import numpy as np
from cases import optimized_jit

from scav_jax.distances import polynomials


def test_exp2_within_a_few_roundings():
    values = np.linspace(-126, 0, 99_991, dtype=np.float32)
    np.testing.assert_allclose(optimized_jit(polynomials.exp2)(values), np.exp2(values.astype(np.float64)), rtol=3e-7)


def test_log1p_within_a_few_roundings_of_one():
    values = np.linspace(0, 2, 99_991, dtype=np.float32)
    expected = np.log1p(values.astype(np.float64))
    np.testing.assert_allclose(optimized_jit(polynomials.log1p)(values), expected, rtol=0, atol=2.5e-7)


def test_powers_that_float32_cannot_hold_are_zero():
    assert polynomials.exp2(jnp.float32(0)) == 1
    np.testing.assert_array_equal(polynomials.exp2(jnp.float32([-127, -1e10, -1e38, -jnp.inf])), 0)
