"""What makes a clip's features unusable: one rule for the extraction that writes them and the store that packs them."""

from collections.abc import Sequence

import numpy as np

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class FeatureError(ValueError):
    """Features that cannot be used: every problem found, a line each, `file: expected ..., got ...`."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["FeatureError"], tuple[Sequence[str]]]:
        return FeatureError, (self.problems,)


def find_problem(features: np.ndarray) -> str | None:
    """`expected ..., got ...` unless features are finite (length, width) floats that fit float16 and vary; else None.

    One number throughout (a muted clip, a still picture) is nothing to train on, so it is a problem too.
    """
    if features.dtype.kind != "f":
        return f"expected floating-point numbers, got {features.dtype}"
    if features.ndim != 2:
        return f"expected shape (length, width), got {features.shape}"
    if features.size == 0:
        return f"expected at least one vector, got shape {features.shape}"
    num_bad = features.size - np.count_nonzero(np.isfinite(features))
    if num_bad:
        return f"expected finite numbers, got {num_bad} NaN or Inf of {features.size}"
    low, high = float(features.min()), float(features.max())
    if max(-low, high) > _FLOAT16_MAX:
        return f"expected magnitudes up to {_FLOAT16_MAX:g} (float16), got {max(-low, high):g}"
    if low == high and features.size > 1:
        return f"expected numbers that vary, got {low:g} throughout"
    return None
