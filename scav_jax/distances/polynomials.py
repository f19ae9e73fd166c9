"""exp2 and log1p on the short ranges that soft-DTW needs: in float32 a polynomial each, without special cases.

On CPU, XLA spreads an operation over the cores only if it counts enough arithmetic in it, and inside jnp.exp and
jnp.log it counts none: with these a sweep uses every core. Types other than float32 take jnp's functions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

_SIGNIFICAND_BITS = 23
_LEAST_EXPONENT = -126


def _coefficients(function, degree: int) -> list[float]:
    """Of powers of v, for function on -1 <= v <= 1, near the least worst error."""
    return chebyshev.cheb2poly(chebyshev.chebinterpolate(function, degree)).tolist()


_EXP2 = _coefficients(lambda v: np.exp2(v / 2), 6)
_LOG1P = _coefficients(lambda v: np.log(2 + v), 11)


def exp2(exponents: Float[Array, "..."]) -> Float[Array, "..."]:
    """2^v for v <= 0; zero where float32 has no normal number left (v < -126). Relative error below 3e-7."""
    if exponents.dtype != jnp.float32:
        return jnp.exp2(exponents)
    normal = jnp.maximum(exponents, _LEAST_EXPONENT)
    whole = jnp.round(normal)
    significands = jax.lax.bitcast_convert_type(_horner(_EXP2, 2 * (normal - whole)), jnp.int32)
    powers = significands + jax.lax.shift_left(whole.astype(jnp.int32), _SIGNIFICAND_BITS)
    return jnp.where(exponents < _LEAST_EXPONENT, 0, jax.lax.bitcast_convert_type(powers, jnp.float32))


def log1p(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + v) for 0 <= v <= 2. Absolute error below 2.5e-7."""
    return _horner(_LOG1P, values - 1) if values.dtype == jnp.float32 else jnp.log1p(values)


def _horner(coefficients, values):
    *others, result = coefficients
    for coefficient in reversed(others):
        result = result * values + coefficient
    return result
