"""What the Wasserstein distance promises beyond the suite: convergence, the sense of position, the marginal error."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from cases import program
from jax.test_util import check_grads

from scav_jax.distances import marginal_error, pairwise
from scav_jax.shapes import prefix_mask

LENGTHS = [5, 2], [1, 4]


def test_check_grads_once_converged(rng, x64):
    x, y = jnp.asarray(rng.normal(size=(1, 3, 2))), jnp.asarray(rng.normal(size=(2, 4, 2)))
    options = dict(epsilon=5.0, num_iterations=100, debiased=True)
    check_grads(jax.jit(lambda x, y: pairwise("wasserstein", x, y, **options)), (x, y), order=1, modes=["rev"])


def test_dual_rises_to_cost_plus_divergence(rng, x64):
    x, y = rng.normal(size=(1, 3, 2)), rng.normal(size=(1, 4, 2))

    def dual(num_iterations):
        run = program("wasserstein", epsilon=2.0, num_iterations=num_iterations)
        return float(run(x, y, None, None, np.ones((1, 1)))[0][0, 0])

    duals = [dual(num_iterations) for num_iterations in (1, 2, 4, 400)]
    assert duals == sorted(duals)
    costs = oracle.ground_costs(x[0], y[0], "sqeuclidean")
    _, plan = oracle.sinkhorn(costs, 2.0, 400)
    primal = np.sum(plan * costs) + 2.0 * np.sum(plan * np.log(plan * plan.size))
    np.testing.assert_allclose(duals[-1], primal, 1e-9)


def test_position_weight_makes_order_count(rng):
    x = rng.normal(size=(1, 6, 3)).astype(np.float32)
    one = np.ones((1, 1), np.float32)
    for position_weight, counts in ((3.0, True), (0.0, False)):
        run = program("wasserstein", position_weight=position_weight)
        same, reverse = (float(run(x, y, None, None, one)[0][0, 0]) for y in (x, x[:, ::-1]))
        assert reverse > same + 0.1 if counts else abs(reverse - same) < 1e-4


def test_marginal_error_is_the_worst_pairs(rng):
    x, y = (rng.normal(size=(2, length, 2)).astype(np.float32) for length in (5, 4))
    masks = prefix_mask(jnp.array(LENGTHS[0]), 5), prefix_mask(jnp.array(LENGTHS[1]), 4)
    errors = []
    for i, n in enumerate(LENGTHS[0]):
        for j, m in enumerate(LENGTHS[1]):
            plan = oracle.alignment("wasserstein", x[i, :n], y[j, :m], epsilon=0.4, num_iterations=2)
            errors.append(np.abs(plan.sum(axis=0) - 1 / m).sum())

    def worst(**options):
        return jax.jit(lambda x, y, *masks: marginal_error(x, y, *masks, **options))(x, y, *masks)

    for tile_size in (None, 1):
        error = worst(epsilon=0.4, num_iterations=2, tile_size=tile_size)
        np.testing.assert_allclose(error, max(errors), 1e-4, 1e-6)
    assert worst(epsilon=5.0, num_iterations=100) < 1e-4
