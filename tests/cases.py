"""The configurations that the distance tests share, and their compiled programs, each compiled once a session."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scav_jax import distances
from scav_jax.shapes import prefix_mask

X_SHAPE, Y_SHAPE = (4, 4, 3), (3, 6, 3)
X_LENGTHS, Y_LENGTHS = [4, 1, 2, 3], [6, 2, 1]

# At least one case a registered distance, and one a form of its fast path.
CASES = {
    "euclidean": ("euclidean", {}),
    "euclidean-reversed": ("euclidean", {"resample": "y_to_x", "unit_norm": True}),
    "euclidean-plain": ("euclidean", {"squared": False}),
    "euclidean-plain-reversed": ("euclidean", {"resample": "y_to_x", "squared": False}),
    "euclidean-grid": ("euclidean", {"resample": 5, "unit_norm": True}),
    "euclidean-fine-grid": ("euclidean", {"resample": 9}),
    "euclidean-plain-grid": ("euclidean", {"resample": 2, "squared": False, "unit_norm": True}),
    "dtw": ("dtw", {"gamma": 0.1}),
    "dtw-debiased": ("dtw", {"gamma": 1.0, "cost": "euclidean", "debiased": True}),
    "dtw-cosine": ("dtw", {"gamma": 10, "cost": "cosine", "normalize": False, "unit_norm": True}),
    "dtw-hard": ("dtw", {"gamma": 0, "cost": "euclidean"}),
    "dtw-hard-debiased": ("dtw", {"gamma": 0, "cost": "cosine", "debiased": True, "normalize": False}),
    "wasserstein": ("wasserstein", {"epsilon": 0.3, "num_iterations": 23, "unit_norm": True}),
    "wasserstein-debiased": ("wasserstein", {"position_weight": 1.0, "cost": "euclidean", "debiased": True}),
    "wasserstein-cosine": ("wasserstein", {"epsilon": 0.05, "num_iterations": 3, "cost": "cosine"}),
    "wasserstein-ott": ("wasserstein", {"epsilon": 0.3, "num_iterations": 12, "solver": "ott"}),
    "cosine": ("cosine", {}),
    "cosine-unit": ("cosine", {"unit_norm": True}),
}

# XLA's options as users have them, and as tests compile by default: four times faster, into the same operations.
OPTIMIZED: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
QUICK_FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 12):  # which ends the process at a flag that it no longer knows
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True
    QUICK_FLAGS += " --xla_cpu_use_fusion_emitters=false"


def optimized_jit(function):
    """jax.jit for tests of float32's digits."""
    return jax.jit(function, compiler_options=OPTIMIZED)


def heavy_unless(quick, *values):
    """All cases run; those that are not quick, or tell little that others do not, among the heavy tests."""
    return pytest.param(*values, marks=() if quick else pytest.mark.heavy)


def compiled(case, **extra):
    name, options = CASES[case]
    return program(name, **{**options, **extra})


@functools.cache
def program(name, **options):
    """(x, y, x_mask, y_mask, weighting) -> values, gradients of sum(weighting * values) in x and y."""
    return jax.jit(value_and_gradients(name, **options))


def value_and_gradients(name, **options):
    def weighted(x, y, x_mask, y_mask, weighting):
        values = distances.pairwise(name, x, y, x_mask, y_mask, **options)
        return jnp.sum(weighting * values), values

    def run(*arguments):
        (_, values), gradients = jax.value_and_grad(weighted, (0, 1), has_aux=True)(*arguments)
        return values, *gradients

    return run


def masks(x_lengths=X_LENGTHS, y_lengths=Y_LENGTHS):
    return prefix_mask(jnp.array(x_lengths), X_SHAPE[1]), prefix_mask(jnp.array(y_lengths), Y_SHAPE[1])


def clips(rng, dtype=np.float32):
    """Padded clips of x and of y, and a weight for each pair."""
    return (rng.normal(size=shape).astype(dtype) for shape in (X_SHAPE, Y_SHAPE, (X_SHAPE[0], Y_SHAPE[0])))


def relative_error(actual, expected):
    """|actual - expected| / |expected| of whole arrays."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), np.finfo(np.float64).tiny)


def assert_close(actual, expected, rtol=1e-4, atol=2e-4):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol, atol)
