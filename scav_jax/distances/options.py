"""Checks of option values, shared by all distances: each failure names the option, what was expected and what came."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def check_choice(option: str, value: Any, choices: Sequence[Any]) -> None:
    """ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{option}: expected one of {', '.join(map(str, choices))}, got {value!r}")


def check_bool(option: str, value: Any) -> None:
    """ValueError unless the value is True or False; 0 and 1 are not."""
    if not isinstance(value, bool):
        raise ValueError(f"{option}: expected True or False, got {value!r}")


def check_at_least(option: str, value: Any, minimum: int, *, exclusive: bool = False) -> None:
    """ValueError unless the value is a real number >= minimum, or with `exclusive` > minimum."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (value > minimum if exclusive else value >= minimum):
        raise ValueError(f"{option}: expected a number {'>' if exclusive else '>='} {minimum}, got {value!r}")


def check_count(option: str, value: Any) -> None:
    """ValueError unless the value is a whole number >= 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option}: expected a whole number >= 1, got {value!r}")
