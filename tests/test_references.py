"""The distances as other libraries compute them, in float64: tslearn, POT, ott-jax, PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import ot
import pytest
import torch

from scav_jax import distances
from scav_jax.distances import euclidean


@pytest.fixture(scope="module")
def tslearn():
    """tslearn.metrics as plain Python: numba would take 17 seconds to compile what runs for a millisecond here."""
    import numba

    numba.config.DISABLE_JIT = True
    try:
        from tslearn import metrics
    finally:
        numba.config.DISABLE_JIT = False
    return metrics


@pytest.fixture
def sequences(rng, x64):
    return rng.normal(size=(2, 5, 3)), rng.normal(size=(3, 7, 3))


def pairwise(name, x, y, **options):
    return jax.jit(lambda x, y: distances.pairwise(name, x, y, **options))(x, y)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 10.0])
def test_soft_dtw_equals_tslearn(gamma, sequences, tslearn):
    x, y = sequences
    expected = [[tslearn.soft_dtw(a, b, gamma=gamma) for b in y] for a in x]
    np.testing.assert_allclose(pairwise("dtw", x, y, gamma=gamma, normalize=False), expected, 1e-10)


def test_debiased_soft_dtw_equals_tslearn(sequences, tslearn):
    x, y = sequences
    expected = tslearn.cdist_soft_dtw_normalized(x, y, gamma=0.5)
    actual = pairwise("dtw", x, y, gamma=0.5, debiased=True, normalize=False)
    np.testing.assert_allclose(actual, expected, 1e-10)


def test_hard_dtw_equals_the_square_of_tslearns(sequences, tslearn):
    x, y = sequences
    expected = [[tslearn.dtw(a, b) ** 2 for b in y] for a in x]
    np.testing.assert_allclose(pairwise("dtw", x, y, gamma=0, normalize=False), expected, 1e-10)


@pytest.mark.parametrize("gamma", [0, 0.5])
def test_alignment_equals_tslearns(gamma, sequences, tslearn):
    (x, *_), (y, *_) = sequences
    expected = np.zeros((len(x), len(y)))
    if gamma == 0:
        expected[tuple(np.transpose(tslearn.dtw_path(x, y)[0]))] = 1
    else:
        expected, _ = tslearn.soft_dtw_alignment(x, y, gamma=gamma)
    actual = jax.jit(lambda x, y: distances.alignment("dtw", x, y, gamma=gamma))(x, y)
    np.testing.assert_allclose(actual, expected, 1e-6, 1e-6)


def sq_costs(a, b):
    return np.sum((a[:, None] - b[None]) ** 2, axis=2)


def test_converged_wasserstein_equals_pot(sequences):
    x, y = sequences
    options = dict(reg=1.0, reg_type="KL", max_iter=5000, tol=1e-13)
    expected = [[ot.solve(sq_costs(a, b), **options).value for b in y] for a in x]
    actual = pairwise("wasserstein", x, y, epsilon=1.0, num_iterations=1000)
    np.testing.assert_allclose(actual, expected, 1e-9)


def test_converged_plan_equals_pots(sequences):
    (x, *_), (y, *_) = sequences
    weights = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    expected = ot.bregman.sinkhorn_log(*weights, sq_costs(x, y), 1.0, numItermax=5000, stopThr=1e-13)
    run = jax.jit(lambda x, y: distances.alignment("wasserstein", x, y, epsilon=1.0, num_iterations=1000))
    np.testing.assert_allclose(run(x, y), expected, 1e-5, 1e-7)


def test_small_epsilon_is_exact_transport(sequences):
    x, y = map(oracle.unit, sequences)
    expected = np.array([[ot.emd2([], [], sq_costs(a, b)) for b in y] for a in x])
    actual = pairwise("wasserstein", x, y, epsilon=0.01, num_iterations=20_000)
    # What it pays for being sharp, epsilon KL(P | a x b), is at most epsilon log min(n, m).
    assert np.all(actual >= expected)
    assert np.all(actual <= expected + 0.01 * np.log(5))


@pytest.mark.parametrize("debiased", [True, False])
def test_soft_dtw_equals_otts(debiased, sequences):
    from ott.geometry.costs import SoftDTW

    x, y = sequences
    soft_dtw = SoftDTW(gamma=0.5, debiased=debiased)
    with jax.numpy_rank_promotion("allow"):  # ott relies on it
        expected = jax.jit(jax.vmap(jax.vmap(soft_dtw, (None, 0)), (0, None)))(x, y)
    actual = pairwise("dtw", x, y, gamma=0.5, debiased=debiased, normalize=False)
    np.testing.assert_allclose(actual, expected, 1e-10)


def test_sinkhorn_equals_otts(sequences):
    from ott.geometry.geometry import Geometry
    from ott.solvers.linear import solve

    (x, *_), (y, *_) = sequences
    with jax.numpy_rank_promotion("allow"):
        geometry = Geometry(jnp.asarray(sq_costs(x, y)), epsilon=0.5)
        result = solve(geometry, threshold=0.0, min_iterations=30, max_iterations=30)
    actual = pairwise("wasserstein", x[None], y[None], epsilon=0.5, num_iterations=30)
    np.testing.assert_allclose(actual[0, 0], result.reg_ot_cost, 1e-9)
    run = jax.jit(lambda x, y: distances.alignment("wasserstein", x, y, epsilon=0.5, num_iterations=30))
    np.testing.assert_allclose(run(x, y), result.matrix, 1e-5, 1e-7)


@pytest.mark.parametrize(("source", "target"), [(5, 7), (7, 5), (4, 2), (1, 3), (3, 1), (6, 6), (32, 21)])
def test_interpolation_equals_torchs(source, target, rng, x64):
    frames = rng.normal(size=(source, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(frames.T[None]), size=target, mode="linear", align_corners=False
    )
    weights = euclidean.interpolation_weights(source, target, target, source, jnp.float64)
    np.testing.assert_allclose(weights @ frames, expected[0].numpy().T, 1e-10, 1e-12)


@pytest.mark.parametrize("resample", ["x_to_y", "y_to_x", 9])
def test_euclidean_equals_torchs(resample, sequences):
    x, y = sequences
    length = {"x_to_y": 7, "y_to_x": 5}.get(resample, resample)

    def resized(frames):
        frames = torch.from_numpy(frames).swapaxes(1, 2)
        return torch.nn.functional.interpolate(frames, size=length, mode="linear", align_corners=False)

    expected = torch.mean(torch.sum((resized(x)[:, None] - resized(y)[None]) ** 2, dim=2), dim=2)
    np.testing.assert_allclose(pairwise("euclidean", x, y, resample=resample), expected.numpy(), 1e-10)
