"""Strict defaults of every test: warnings are errors, no silent rank promotion, shapes checked, 8 fake devices."""

import gc
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from cases import QUICK_FLAGS

os.environ.setdefault("XLA_FLAGS", f"{QUICK_FLAGS} --xla_force_host_platform_device_count=8")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")

# JAX keeps millions of objects of what it traced: looking through them takes a tenth of the time of the tests.
gc.set_threshold(100_000, 20, 50)

# Set before pytest-xdist starts its workers, which then draw the same.
SEED = int(os.environ.setdefault("SCAV_TEST_SEED", str(random.SystemRandom().randrange(2**16))))
REPOSITORY = Path(__file__).parents[1]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def pytest_report_header():
    return f"jax {jax.__version__}, {jax.device_count()} devices, SCAV_TEST_SEED={SEED}"


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy generator whose seed the report header prints, so that a failure can be repeated."""
    return np.random.default_rng(SEED)


@pytest.fixture
def x64():
    """Runs the test in float64."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all workers of one run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def shell_environment(shared) -> dict[str, str]:
    """The environment of a started entry point: one CPU device, and compiled programs shared by all of them."""
    environment = {
        "XLA_FLAGS": QUICK_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {**os.environ, **environment, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="session")
def shell(shell_environment) -> Shell:
    """shell("train.py", "--workdir=...") starts `python train.py --workdir=...` in the repository root."""

    def start(*command: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, *map(str, command)]
        return subprocess.run(arguments, cwd=cwd, env=shell_environment, capture_output=True, text=True, check=False)

    return start


@pytest.fixture(scope="session")
def marimba(shared) -> Path:
    """A small world of marimba: marimba/world and marimba/store, 64 clips to train on; to be read only."""
    from data.marimba.prepare import prepare

    out = shared / "marimba"
    prepare(out, seed=0, scale=0.05)  # by one worker, while the others wait for it
    return out
