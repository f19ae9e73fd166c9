"""Sinkhorn against loops in float64, against ott, and where the kernel would leave float32's range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import linear_sum_assignment

from scav_jax.distances import marginal_error, pairwise
from scav_jax.shapes import prefix_mask

LENGTHS = [5, 2], [1, 4]


def masks():
    return prefix_mask(jnp.array(LENGTHS[0]), 5), prefix_mask(jnp.array(LENGTHS[1]), 4)


def oracle(x, y, epsilon, num_iterations, position_weight):
    """One unpadded pair: the dual, and the plan, by scalar loops (exponents here stay far from float64's range)."""
    x, y = (np.c_[v, position_weight * (np.arange(len(v)) + 0.5) / len(v)] for v in (x, y))
    costs = np.array([[np.sum((a - b) ** 2) for b in y] for a in x])
    n, m = costs.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(num_iterations):
        for j in range(m):
            g[j] = -epsilon * np.log(sum(np.exp((f[i] - costs[i, j]) / epsilon) for i in range(n)) / n)
        for i in range(n):
            f[i] = -epsilon * np.log(sum(np.exp((g[j] - costs[i, j]) / epsilon) for j in range(m)) / m)
    plan = np.exp((f[:, None] + g[None, :] - costs) / epsilon) / (n * m)
    return f.mean() + g.mean(), plan, costs


@pytest.mark.parametrize(("num_iterations", "debiased"), [(1, False), (7, False), (30, True)])
def test_matches_loops(num_iterations, debiased, rng, x64):
    x, y = rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 4, 2))
    options = dict(epsilon=0.4, num_iterations=num_iterations, position_weight=0.7)

    def expected(a, b):
        value = oracle(a, b, **options)[0]
        return value - (oracle(a, a, **options)[0] + oracle(b, b, **options)[0]) / 2 if debiased else value

    values = pairwise("wasserstein", jnp.asarray(x), jnp.asarray(y), *masks(), debiased=debiased, **options)
    for i, n in enumerate(LENGTHS[0]):
        for j, m in enumerate(LENGTHS[1]):
            np.testing.assert_allclose(values[i, j], expected(x[i, :n], y[j, :m]), 1e-9, 1e-12)


def test_gradient_is_the_last_plan_held_fixed(rng, x64):
    x, y = rng.normal(size=(1, 3, 2)), rng.normal(size=(1, 4, 2))
    options = dict(epsilon=0.4, num_iterations=3, position_weight=0.7)  # far from converged
    gradient = jax.jit(jax.grad(lambda x: pairwise("wasserstein", x, jnp.asarray(y), **options)[0, 0]))(jnp.asarray(x))
    _, plan, _ = oracle(x[0], y[0], **options)
    expected = 2 * np.sum(plan[:, :, None] * (x[0][:, None] - y[0][None]), axis=1)
    np.testing.assert_allclose(gradient[0], expected, 1e-8)


@pytest.mark.parametrize("debiased", [True, False])
def test_check_grads_once_converged(debiased, rng, x64):
    x, y = jnp.asarray(rng.normal(size=(1, 3, 2))), jnp.asarray(rng.normal(size=(2, 4, 2)))
    options = dict(epsilon=1.0, num_iterations=200, debiased=debiased)
    check_grads(jax.jit(lambda x, y: pairwise("wasserstein", x, y, **options)), (x, y), order=1, modes=["rev"])


def test_dual_converges_to_cost_plus_divergence(rng, x64):
    x, y = rng.normal(size=(1, 3, 2)), rng.normal(size=(1, 4, 2))
    duals = [
        float(pairwise("wasserstein", jnp.asarray(x), jnp.asarray(y), epsilon=0.5, num_iterations=k)[0, 0])
        for k in (1, 2, 4, 200)
    ]
    assert duals == sorted(duals)
    _, plan, costs = oracle(x[0], y[0], 0.5, 200, 0.0)
    primal = np.sum(plan * costs) + 0.5 * np.sum(plan * np.log(plan * plan.size))
    np.testing.assert_allclose(duals[-1], primal, 1e-9)


def test_small_epsilon_is_the_best_assignment(rng):
    frames = rng.normal(size=(2, 6, 3)).astype(np.float32)
    costs = np.sum((frames[0][:, None] - frames[1][None]) ** 2, axis=2)
    expected = costs[linear_sum_assignment(costs)].mean()
    value = pairwise("wasserstein", jnp.asarray(frames[:1]), jnp.asarray(frames[1:]), epsilon=2e-3, num_iterations=2000)
    np.testing.assert_allclose(value[0, 0], expected, 5e-3)


@pytest.mark.parametrize("epsilon", [0.1, 5e-3])
def test_kernel_domain_is_as_stable_as_the_log_domain(epsilon, rng):
    # At epsilon 5e-3 costs reach 4 / epsilon = 800, where exp leaves float32's range at 88.
    x, y = (jnp.asarray(rng.normal(size=(3, length, 4)), jnp.float32) for length in (12, 20))
    x_mask, y_mask = prefix_mask(jnp.array([12, 5, 1]), 12), prefix_mask(jnp.array([3, 20, 11]), 20)

    def run(implementation):
        def total(x, y):
            values = pairwise(
                "wasserstein",
                x,
                y,
                x_mask,
                y_mask,
                epsilon=epsilon,
                num_iterations=200,
                unit_norm=True,
                implementation=implementation,
            )
            return jnp.sum(values), values

        (_, values), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, y)
        return values, *gradients

    for fast, reference in zip(run("fast"), run("reference"), strict=True):
        np.testing.assert_allclose(fast, reference, 1e-4, 1e-4 if epsilon == 0.1 else 1e-3)


@pytest.mark.parametrize("debiased", [True, False])
def test_ott_agrees(debiased, rng):
    x, y = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32), jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)

    def run(solver):
        def total(x, y):
            options = dict(epsilon=0.3, num_iterations=40, position_weight=1.0, debiased=debiased, solver=solver)
            values = pairwise("wasserstein", x, y, *masks(), **options)
            return jnp.sum(values), values

        (_, values), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, y)
        return values, *gradients

    for own, ott in zip(run("own"), run("ott"), strict=True):
        np.testing.assert_allclose(own, ott, 1e-4, 1e-4)


def test_position_weight_makes_order_count(rng):
    x = jnp.asarray(rng.normal(size=(1, 6, 3)), jnp.float32)
    y = x[:, ::-1]
    same, reverse = (pairwise("wasserstein", x, v, position_weight=3.0)[0, 0] for v in (x, y))
    assert reverse > same + 0.1
    np.testing.assert_allclose(*(pairwise("wasserstein", x, v)[0, 0] for v in (x, y)), 1e-4, 1e-5)


def test_marginal_error(rng):
    x, y = jnp.asarray(rng.normal(size=(2, 5, 2)), jnp.float32), jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32)
    errors = []
    for i, n in enumerate(LENGTHS[0]):
        for j, m in enumerate(LENGTHS[1]):
            _, plan, _ = oracle(np.float64(x[i, :n]), np.float64(y[j, :m]), 0.4, 2, 0.0)
            errors.append(np.abs(plan.sum(axis=0) - 1 / m).sum())
    worst = marginal_error(x, y, *masks(), epsilon=0.4, num_iterations=2, tile_size=1)
    np.testing.assert_allclose(worst, max(errors), 1e-4)
    assert marginal_error(x, y, *masks(), epsilon=1.0, num_iterations=200) < 1e-4
