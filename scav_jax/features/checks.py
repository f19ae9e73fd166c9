"""What makes a clip's features or a table of clips unusable: one rule for whoever writes and whoever reads them."""

import csv
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class FeatureError(ValueError):
    """Features that cannot be used: every problem found, a line each, `file: expected ..., got ...`."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["FeatureError"], tuple[Sequence[str]]]:
        return FeatureError, (self.problems,)


def report(error: Exception) -> int:
    """Says every problem in a line of its own on stderr; the exit code of a command that ends so."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 1


def read_table(path: Path, columns: Collection[str], needed: str) -> tuple[list[str], list[tuple[int, dict[Any, Any]]]]:
    """Header and rows, with their lines, of a .csv that has the column `needed` and others of `columns`.

    A row of too many cells has the key None, one of too few the value. FeatureError: no such file.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            header, rows = list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise FeatureError([f"{path}: expected a .csv in UTF-8: {error}"]) from error
    if needed not in header or set(header) - set(columns):
        expected = f"a header of {','.join(columns)} ({needed} needed)"
        raise FeatureError([f"{path}: expected {expected}, got {','.join(header)}"])
    return header, rows


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
