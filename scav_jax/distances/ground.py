"""NaN-safe primitives and the ground costs between frames and steps.

Every guard here names the failure it prevents.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scav_jax.shapes import Sequences

# The two sides of a comparison, whose axes differ: x is (Bx, n, d), y is (By, m, d).
XSequences = Float[Array, "Bx n d"]
YSequences = Float[Array, "By m d"]
XMasks = Bool[Array, "Bx n"]
YMasks = Bool[Array, "By m"]
XSequence = Float[Array, "n d"]
YSequence = Float[Array, "m d"]

COSTS = ("sqeuclidean", "euclidean", "cosine")
PRECISIONS = ("float32", "bfloat16")


def safe_sqrt(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """sqrt with gradient 0 at 0, where the plain one gives inf and, times a zero cotangent, NaN."""
    positive = values > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, values, 1)), 0)


def sq_norm(vectors: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Squared norm over the last axis, in float32 at least."""
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    return jnp.sum(vectors * vectors, axis=-1)


def unit_norm(vectors: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Each vector divided by its norm; a zero vector stays zero and gets gradient zero.

    Scaled by the largest entry first: squares of tiny or huge entries would leave the range of float32.
    """
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    vectors = vectors / jnp.where(scale > 0, scale, 1)
    norm = safe_sqrt(sq_norm(vectors))[..., None]
    return vectors / jnp.where(norm > 0, norm, 1)


def nonnegative(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Clips the rounding of |x|^2 + |y|^2 - 2xy at 0, and leaves the gradient of the exact expression alone."""
    return values + jax.lax.stop_gradient(jnp.maximum(values, 0) - values)


def rounded(vectors: Float[Array, "..."], precision: str) -> Float[Array, "..."]:
    """The vectors as a product of that precision sees them: norms taken from them too keep small distances exact."""
    return vectors.astype(jnp.bfloat16) if precision == "bfloat16" else vectors


def product(subscripts: str, x: Float[Array, "..."], y: Float[Array, "..."], precision: str) -> Float[Array, "..."]:
    """einsum of two operands: inputs in `precision`, accumulation and result in float32 (float64 for float64 inputs).

    Asks for the highest machine precision: TF32 or bfloat16 passes put a floor near 1e-2 under small distances.
    """
    result_type = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    x, y = rounded(x, precision), rounded(y, precision)
    return jnp.einsum(subscripts, x, y, precision="highest", preferred_element_type=result_type)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def gram(x: Float[Array, "I d"], y: Float[Array, "J d"], precision: str) -> Float[Array, "I J"]:
    """Inner products of all rows."""
    return product("id,jd->ij", x, y, precision)


def _gram_forward(x, y, precision):
    return gram(x, y, precision), (x, y)


def _gram_backward(precision, rows, cotangent):
    x, y = rows
    x_cotangent = product("ij,jd->id", cotangent, y, precision)
    if len(x) < x.shape[1]:
        return x_cotangent, product("ij,id->jd", cotangent, x, precision)
    # On CPU XLA transposes the (I, J) cotangent for that, which costs more than the product where I is large; the
    # barrier keeps it from doing so here too.
    return x_cotangent, jax.lax.optimization_barrier(product("di,ij->dj", x.T, cotangent, precision)).T


gram.defvjp(_gram_forward, _gram_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def sq_distances(x: Float[Array, "I d"], y: Float[Array, "J d"], precision: str) -> Float[Array, "I J"]:
    """Squared distances of all rows by |x|^2 + |y|^2 - 2xy; rounding below 0 is cut off, for the value only."""
    x, y = rounded(x, precision), rounded(y, precision)
    return jnp.maximum(sq_norm(x)[:, None] + sq_norm(y)[None, :] - 2 * product("id,jd->ij", x, y, precision), 0)


def _sq_distances_forward(x, y, precision):
    return sq_distances(x, y, precision), (x, y)


def _sq_distances_backward(precision, rows, cotangent):
    """2 (x sum_j g_ij - g y): a column of ones sums g inside the product, out of the same rounded numbers."""
    with_ones = [jnp.concatenate([side, jnp.ones_like(side[:, :1])], axis=1) for side in rows]
    sums = _gram_backward(precision, with_ones, cotangent)
    x, y = (2 * (rounded(v, precision) * sum_[:, -1:] - sum_[:, :-1]) for v, sum_ in zip(rows, sums, strict=True))
    return x, y


sq_distances.defvjp(_sq_distances_forward, _sq_distances_backward)


def cost_matrix(x: XSequence, y: YSequence, cost: str) -> Float[Array, "n m"]:
    """The definition: ground cost of every frame of x (n, d) to every step of y (m, d), from their difference.

    "cosine" is 1 - cos, and 1 where a vector is zero.
    """
    if cost == "cosine":
        return 1 - jnp.sum(unit_norm(x)[:, None, :] * unit_norm(y)[None, :, :], axis=-1)
    sq_costs = sq_norm(x[:, None, :] - y[None, :, :])
    return sq_costs if cost == "sqeuclidean" else safe_sqrt(sq_costs)


def cost_block(x: Float[Array, "*I d"], y: Float[Array, "*J d"], cost: str, precision: str) -> Float[Array, "..."]:
    """(*I, *J) ground costs of every vector of x to every vector of y by one matrix product."""
    rows = [side.reshape(-1, side.shape[-1]) for side in (x, y)]
    if cost == "cosine":
        costs = nonnegative(1 - gram(*map(unit_norm, rows), precision))
    else:
        costs = sq_distances(*rows, precision)
        costs = safe_sqrt(costs) if cost == "euclidean" else costs
    return costs.reshape(*x.shape[:-1], *y.shape[:-1])


def self_costs(x: Sequences, cost: str, precision: str) -> Float[Array, "B n n"]:
    """Ground costs of each clip's frames to its own frames; exactly 0 on the diagonal but for "cosine"."""
    x = rounded(unit_norm(x) if cost == "cosine" else x, precision)
    products = product("ind,imd->inm", x, x, precision)
    if cost == "cosine":  # a zero vector's cosine cost to itself is 1
        return nonnegative(1 - products)
    sq_x = sq_norm(x)
    # Rounding would show on the diagonal: the root of 1e-7 is 3e-4.
    products = jnp.where(jnp.eye(x.shape[1], dtype=bool)[None, :, :], sq_x[:, None, :], products)
    costs = nonnegative(sq_x[:, :, None] + sq_x[:, None, :] - 2 * products)
    return costs if cost == "sqeuclidean" else safe_sqrt(costs)
