"""Two records side by side: for every array how far apart, what is allowed, and who is nearer to float64."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np

from scav_jax.parity.record import Record

# The largest relative difference (norms over an array) that counts as the same. float64 and float32: a few hundred
# rounding errors; of the coarser ones, a few dozen, for they round every product's inputs and there are fewer digits.
_FLOAT32 = {
    "module": 1e-5,
    "towers": 1e-4,
    "distance": 1e-5,
    "loss": 1e-5,
    "whole loss": 1e-4,
    "gradient": 1e-4,
    "update": 1e-4,
}
TOLERANCES = {
    "float64": dict.fromkeys(_FLOAT32, 1e-9),
    "float32": _FLOAT32,
    # Of distances, losses and updates the products are float32's whatever the machine's default is.
    "tensorfloat32": _FLOAT32 | {"module": 5e-3, "towers": 2e-2, "whole loss": 2e-2, "gradient": 1e-1},
    "bfloat16": _FLOAT32 | {"module": 4e-2, "towers": 1e-1, "whole loss": 1e-1, "gradient": 5e-1},
}
# What matrix products of float32 are, unasked.
DEFAULT_MATMUL = {"cpu": "float32", "gpu": "tensorfloat32", "tpu": "bfloat16"}
# Of a gradient that is mathematically zero (key biases), only rounding is left: it is measured by the whole gradient's.
NEGLIGIBLE = 1e-3
# Of these both sides start from the same numbers, and theirs in float64 can tell whose rounding it is.
WHOLE = ("towers", "whole loss", "gradient")


@dataclass(frozen=True)
class Row:
    """One array: how far ours is from theirs, and each of them from float64 (None: nobody computed it).

    excused: the float64 is theirs, ours is within the tolerance of it, and theirs is farther: the rounding is theirs.
    """

    kind: str
    name: str
    max_absolute: float
    relative: float
    cosine: float
    tolerance: float
    ours_off: float | None = None
    theirs_off: float | None = None
    excused: bool = False

    @property
    def agrees(self) -> bool:
        return self.relative <= self.tolerance or self.excused  # NaN does not

    @property
    def verdict(self) -> str:
        return "DIFFERS" if not self.agrees else "ok" if self.relative <= self.tolerance else "theirs rounds"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def effective_precision(precision: str, reference: Record) -> str:
    """Whose rounding decides: the coarser of the two."""
    own = DEFAULT_MATMUL.get(jax.default_backend(), "bfloat16") if precision == "default" else precision
    order = list(TOLERANCES)
    return max(own, reference.about.get("precision", "float32"), key=order.index)


def rows(reference: Record, ours: Record, judge: Record | None = None, exact: Record | None = None) -> list[Row]:
    """One row for everything that both have, in the order of computation: the first that differs is where to look.

    judge: ours in float64, fed with the reference's numbers. exact: theirs in float64, of the same inputs.
    """
    tolerances = TOLERANCES[effective_precision(ours.about["precision"], reference)]
    floats64 = {} if judge is None else {(kind, name): own for kind, name, _, own, _ in _pairs(reference, judge)}
    if exact is not None:
        floats64 |= {(kind, name): it for kind, name, it, _, _ in _pairs(exact, ours) if kind in WHOLE}
    found = []
    for kind, name, theirs, own, floor in _pairs(reference, ours):
        tolerance, apart = tolerances[kind], _relative(own, theirs, floor)
        row = Row(kind, name, float(np.max(np.abs(own - theirs), initial=0)), apart, _cosine(own, theirs), tolerance)
        if (kind, name) in floats64:
            off, their_off = (_relative(array, floats64[kind, name], floor) for array in (own, theirs))
            excused = exact is not None and kind in WHOLE and off <= tolerance < apart and off < their_off
            row = replace(row, ours_off=off, theirs_off=their_off, excused=excused)
        found.append(row)
    return found


def _pairs(reference: Record, ours: Record) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, float]]:
    """(kind, name, theirs, ours, the least norm that differences are measured by), float64, padding set to zero."""
    activations, composed = reference.of("activation"), ours.of("composed")
    for name, array in ours.of("activation").items():
        yield "module", name, *_valid(reference, name, activations[name], array), 0.0
    for name, array in composed.items():
        if name in activations:
            yield "towers", name, *_valid(reference, name, activations[name], array), 0.0
    for kind in ("distance", "loss"):
        theirs = reference.of(kind)
        for name, array in ours.of(kind).items():
            yield kind, name, *_doubles(theirs[name], array), 0.0
    for name, loss in reference.of("loss").items():
        yield "whole loss", name, *_doubles(loss, composed[name]), 0.0
    before = reference.of("parameter")
    for distance in reference.distances:
        theirs, own = reference.of("gradient", distance), ours.of("gradient", distance)
        floor = _negligible(theirs.values())
        for name, array in own.items():
            yield "gradient", f"{distance}: {name}", *_doubles(theirs[name], array), floor
    for distance in reference.distances:
        updated = reference.of("updated", distance)
        theirs = {name: _double(after) - before[name] for name, after in updated.items()}
        floor = _negligible(theirs.values())
        for name, array in ours.of("updated", distance).items():
            apart = _beyond_rounding(array, updated[name])
            yield "update", f"{distance}: {name}", theirs[name], theirs[name] + apart, floor


def _beyond_rounding(array, expected):
    """Their difference but for one unit in the last place, which storing what a small step changed may cost."""
    coarser = min(array.dtype, expected.dtype, key=lambda dtype: dtype.itemsize)
    unit = np.spacing(np.maximum(np.abs(array), np.abs(expected)).astype(coarser))
    apart = _double(array) - _double(expected)
    return np.sign(apart) * np.maximum(np.abs(apart) - _double(unit), 0)


def _negligible(arrays):
    return NEGLIGIBLE * float(np.sqrt(sum(np.sum(np.square(_double(array))) for array in arrays)))


def _valid(reference, name, *arrays):
    mask = reference.of("input").get(f"{name.split('.')[1]}_mask")
    return [_double(array) if mask is None else np.where(mask[:, :, None], _double(array), 0) for array in arrays]


def _doubles(*arrays):
    return [_double(array) for array in arrays]


def _double(array):
    return np.asarray(array, np.float64)


def _relative(array, expected, floor):
    norm = max(float(np.linalg.norm(expected)), floor)
    apart = float(np.linalg.norm(array - expected))
    return apart / norm if norm else float(apart > 0)


def _cosine(a, b):
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.sum(a * b)) / norms if norms else 1.0
