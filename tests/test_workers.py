"""Items in worker processes: in order, bounded, and a dying worker costs its item alone."""

import os
import time

import pytest

from scav_jax.features.workers import Crashed, run


def square(number):
    if number in (3, 4, 11):
        os._exit(9)
    time.sleep(0.01 * (number % 3))
    return number**2


def odd(number):
    if number == 2:
        raise KeyError("two")
    return number


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_order_and_a_crash_costs_one_item(num_workers):
    results = dict(run(square, range(14), num_workers=num_workers, ahead=5))
    assert list(results) == list(range(14))
    for number, result in results.items():
        assert isinstance(result, Crashed) if number in (3, 4, 11) else result == number**2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_more_than_a_few_are_ahead(num_workers):
    taken = 0

    def items():
        nonlocal taken
        for number in range(20, 40):
            taken += 1
            yield number

    for done, _ in enumerate(run(square, items(), num_workers=num_workers, ahead=3)):
        assert taken <= done + 1 + 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_the_function_ends_the_run(num_workers):
    with pytest.raises(KeyError, match="two"):
        list(run(odd, range(100), num_workers=num_workers, ahead=4))
