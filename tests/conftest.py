"""Strict defaults of every test: warnings are errors, ranks never promote silently, shapes are checked, 8 fake devices."""

import os
import random

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")


def pytest_report_header():
    return f"jax {jax.__version__}, {jax.device_count()} devices, SCAV_TEST_SEED={_seed()}"


def _seed() -> int:
    return int(os.environ.setdefault("SCAV_TEST_SEED", str(random.SystemRandom().randrange(2**16))))


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy generator whose seed the report header prints, so that a failure can be repeated."""
    return np.random.default_rng(_seed())


@pytest.fixture
def x64():
    """Runs the test in float64."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
