"""NaN-safe primitives and the ground costs between frames and steps.

Every guard here names the failure it prevents.
"""

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


def cost_matrix(x: XSequence, y: YSequence, cost: str) -> Float[Array, "n m"]:
    """The definition: ground cost of every frame of x (n, d) to every step of y (m, d), from their difference.

    "cosine" is 1 - cos, and 1 where a vector is zero.
    """
    if cost == "cosine":
        return 1 - jnp.sum(unit_norm(x)[:, None, :] * unit_norm(y)[None, :, :], axis=-1)
    sq_costs = sq_norm(x[:, None, :] - y[None, :, :])
    return sq_costs if cost == "sqeuclidean" else safe_sqrt(sq_costs)


def cost_block(x: XSequences, y: YSequences, cost: str, precision: str) -> Float[Array, "Bx By n m"]:
    """Ground costs of all pairs of clips by one matrix product: x (Bx, n, d), y (By, m, d)."""
    x, y = _operands(x, cost, precision), _operands(y, cost, precision)
    gram = product("ind,jmd->ijnm", x, y, precision)
    return _from_gram(gram, sq_norm(x)[:, None, :, None], sq_norm(y)[None, :, None, :], cost)


def self_costs(x: Sequences, cost: str, precision: str) -> Float[Array, "B n n"]:
    """Ground costs of each clip's frames to its own frames; exactly 0 on the diagonal but for "cosine"."""
    x = _operands(x, cost, precision)
    gram = product("ind,imd->inm", x, x, precision)
    sq_x = sq_norm(x)
    if cost != "cosine":  # a zero vector's cosine cost to itself is 1
        # Rounding there would show: the root of 1e-7 is 3e-4.
        gram = jnp.where(jnp.eye(x.shape[1], dtype=bool)[None, :, :], sq_x[:, None, :], gram)
    return _from_gram(gram, sq_x[:, :, None], sq_x[:, None, :], cost)


def _operands(frames, cost, precision):
    return rounded(unit_norm(frames) if cost == "cosine" else frames, precision)


def _from_gram(gram, sq_x, sq_y, cost):
    if cost == "cosine":
        return nonnegative(1 - gram)
    sq_costs = nonnegative(sq_x + sq_y - 2 * gram)
    return sq_costs if cost == "sqeuclidean" else safe_sqrt(sq_costs)
