"""The log's clock, by a clock of our own."""

import time

import jax
import pytest
from test_plan import programs, small

from scav_jax import timing


class Watch:
    """Stands in for the module `time`, and stands still."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_a_row_is_the_mean_step_since_the_last_without_what_is_aside(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(timing, "time", watch)
    found = programs(small(), jax.devices()[:1])
    clock = timing.StepClock(found, split=False)
    for _ in range(4):
        with clock.input():
            watch.now += 0.5
        watch.now += 1.5
    with clock.aside(None):
        watch.now += 100
    assert clock.row() == {
        "steps_per_s": 0.5,
        "negatives": 15,
        "pairs_per_s": 16**2 / 2,
        "flop_per_s": sum(found.operations(16).values()) / 2,
        "input_s": 0.5,
    }
    with clock.input():
        watch.now += 1
    assert clock.row()["steps_per_s"] == 1


@pytest.mark.heavy
def test_parts_are_timed_by_themselves_and_the_towers_have_the_rest():
    clock = timing.StepClock(programs(small(), jax.devices()), split=True)
    with clock.input():
        pass
    time.sleep(0.5)
    row = clock.row()
    assert min(row["distances_s"], row["update_s"]) > 0
    whole = row["input_s"] + row["distances_s"] + row["update_s"] + row["towers_s"]
    assert whole == pytest.approx(1 / row["steps_per_s"], rel=0.01)
