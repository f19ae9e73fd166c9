"""What the log of a run says of the ways in which contrastive training fails in silence: a line each, once a run.

Judged by the rows of metrics.jsonl, so that a resumed run, given its earlier rows, goes on where it was. Thresholds are
ours; docs/troubleshooting.md has the same signatures, what to do about each, and what the thresholds were set by.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

CHANCE = "warning: loss at chance"
COLLAPSE = "warning: distances collapsed"
BEHIND = "warning: sequence recall below aggregate recall"
MEMORY = "out of device memory"
SIGNATURES = (CHANCE, COLLAPSE, BEHIND, MEMORY)

AT_CHANCE = 0.98  # of ln N
COLLAPSED = 0.025  # of the mean distance
# The root of the variance floor of losses.normalize: rows that deviate less are no longer scaled up to 1.
FLOOR = 1e-3
# A signature of training is to hold in more than half of the rows of so much of it. Fewer steps or rows tell nothing.
WINDOW_FRACTION, WINDOW_STEPS, WINDOW_ROWS = 0.1, 25, 3

TRAINING_REMEDY = (
    "lower micro_batch_size (towers), set stream_distances=True (the matrix of distances), lower distance.tile_size (a "
    "tile of them), eval.batch_size or batch_size; train.py --plan shows which part is short"
)
EVALUATION_REMEDY = (
    "lower eval.batch_size (towers) or distance.tile_size (a tile of distances) in RUN/config.json, or rank fewer "
    "clips by --gallery"
)


class Diagnosis:
    """Reads a run's rows as they are logged.

    config: the run's; trained_with: the distance of its loss; earlier: rows that a resumed run has already.
    """

    def __init__(self, config: Any, trained_with: str, earlier: Iterable[Mapping[str, Any]] = ()):
        self._recipe = f"recipe.{trained_with}"
        self._temperature = config.recipe[trained_with].temperature
        self._warmup = config.optimizer.warmup_fraction * config.steps
        self._window = max(WINDOW_FRACTION * config.steps, WINDOW_STEPS)
        self._recent: deque[Mapping[str, Any]] = deque()
        self._said: set[str] = set()
        for row in earlier:
            self.lines(row)

    def lines(self, row: Mapping[str, Any]) -> list[str]:
        """What is to be said after this row, a training row or an evaluation: mostly nothing."""
        found = {**self._of_window(row), BEHIND: sequence_behind(row)}
        new = {name: line for name, line in found.items() if line and name not in self._said}
        self._said |= new.keys()
        return list(new.values())

    def _of_window(self, row):
        if "loss_over_chance" not in row or row["step"] <= self._warmup:
            return {}
        recent = self._recent
        recent.append(row)
        while len(recent) > WINDOW_ROWS and row["step"] - recent[1]["step"] >= self._window:
            recent.popleft()
        if len(recent) < WINDOW_ROWS or row["step"] - recent[0]["step"] < self._window:
            return {}
        steps = f"steps {recent[0]['step']:.0f} to {row['step']:.0f}"
        signs = ((CHANCE, _is_at_chance, self._chance), (COLLAPSE, _is_collapsed, self._collapse))
        return {name: line(row, steps) for name, holds, line in signs if 2 * sum(map(holds, recent)) > len(recent)}

    def _chance(self, row, steps):
        return (
            f"{CHANCE}: {row['loss_over_chance']:.2f} of ln N, and no lower in most of {steps}; a guess among the N "
            f"clips of a batch has 1. Likely the learning rate or the temperature is off, or picture and sound of a "
            f"clip do not belong together. Change {self._recipe}.learning_rate by factors of 10, or "
            f"{self._recipe}.temperature (began at {self._temperature:g}), or check the features."
        )

    def _collapse(self, row, steps):
        return (
            f"{COLLAPSE}: a row deviates by {row['distance_deviation']:.2g} around {row['mean_distance']:.2g}, and the "
            f"right clip is no nearer than the others, in most of {steps}. Likely the learning rate or the weight "
            f"decay is too high, or clips have almost the same features. Lower {self._recipe}.learning_rate or "
            f"optimizer.weight_decay, or check the features."
        )


def _is_at_chance(row):
    return row["loss_over_chance"] >= AT_CHANCE


def _is_collapsed(row):
    """Some distances differ little by nature, but then the positive lies several deviations below the mean."""
    deviation, mean = row["distance_deviation"], row["mean_distance"]
    return deviation <= max(COLLAPSED * abs(mean), FLOOR) and mean - row["positive_distance"] <= deviation


def sequence_behind(gain: Mapping[str, Any]) -> str:
    """The line, if the interval of what evaluation.sequence_gain found lies below 0; else ""."""
    if not gain.get("eval_sequence_gain_high", 0.0) < 0:
        return ""
    lost, low, high = (-gain[f"eval_sequence_gain{end}"] for end in ("", "_high", "_low"))
    return (
        f"{BEHIND}: R@1 is {lost:.1f} points lower [{low:.1f}, {high:.1f}], mean of the directions. Likely picture and "
        f"sound are shifted against each other, or time carries nothing in these clips. Try distance.name=dtw or "
        f"wasserstein, check that both cover the same seconds, or train with method=cav."
    )


def out_of_memory(error: BaseException, remedy: str) -> str:
    """The line for an error of XLA, while it compiles or runs, of too little memory; "" for any other error."""
    text = str(error)
    if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError") or "RESOURCE_EXHAUSTED" not in text:
        return ""
    return f"{MEMORY}: {text.strip().splitlines()[0].rstrip('.')}. To change: {remedy}"
