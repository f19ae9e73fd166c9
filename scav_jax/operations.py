"""How many floating-point operations a function takes, counted in its trace: XLA's count has a loop's body once."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend import core


def operations(function: Callable, *arguments) -> int:
    """Of function(*arguments), which may be shapes only; inside jax.shard_map those of one device.

    A product of (m, k) and (k, n) counts 2 m k n, anything else one for each of its floating-point results, a
    reduction one for each number that it reads. What is computed twice counts twice.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)
    if name == "cond":
        return max(_of_jaxpr(branch.jaxpr) for branch in parameters["branches"])
    inner = next(core.jaxprs_in_params(parameters), None)
    if inner is not None:
        # A scan has one body, the others (jit, checkpoint, custom derivatives) the one that runs.
        return parameters.get("length", 1) * _of_jaxpr(inner)
    if name.startswith(("reduce_", "arg", "cum")):
        return sum(map(_size, equation.invars))
    return sum(map(_size, equation.outvars)) if name not in _MOVES else 0


# Data that is only moved, or made of nothing.
_MOVES = {
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "dynamic_update_slice"),
    *("gather", "iota", "optimization_barrier", "pad", "ppermute", "pvary", "reshape", "rev", "slice", "squeeze"),
    *("transpose", "split"),
}


def _size(variable) -> int:
    aval = variable.aval
    return math.prod(aval.shape) if jnp.issubdtype(aval.dtype, jnp.floating) else 0
