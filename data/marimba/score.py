"""What is played: the melodies of every clip, and the subsets of the test gallery that tell what a method can hear.

The music of a clip is drawn from the seed and its own place, whichever others are rendered.
"""

from dataclasses import dataclass

import numpy as np

NOTES = ("C4", "D4", "E4", "G4", "A4", "C5", "D5", "E5")  # pentatonic; one bar each
NUM_EXCHANGES = 1
MAX_LAG_S = 0.5
SPEEDS = (0.8, 1.25)


@dataclass(frozen=True)
class Difficulty:
    """What the clips of a world have in common. unit_s: shortest time unit of a rhythm, drawn per melody."""

    clip_s: float
    num_strokes: int
    unit_s: tuple[float, float]
    unseen_unit_s: tuple[tuple[float, float], tuple[float, float]]
    max_ghosts: int


DIFFICULTIES = {
    "demo": Difficulty(4.0, 12, (0.068, 0.088), ((0.055, 0.062), (0.094, 0.1)), max_ghosts=6),
    "hard": Difficulty(8.0, 42, (0.033, 0.0385), ((0.028, 0.0305), (0.04, 0.0412)), max_ghosts=40),
}
DEMO = DIFFICULTIES["demo"]


@dataclass(frozen=True)
class Clip:
    """One clip's music. Strokes hit `bars` at `picture_onsets_s` in the picture and `sound_onsets_s` in the sound."""

    id: str
    split: str
    subset: str
    group: str
    bars: tuple[int, ...]
    picture_onsets_s: tuple[float, ...]
    sound_onsets_s: tuple[float, ...]
    unseen: bool = False  # palette and timbre from the held-out ones
    difficulty: Difficulty = DEMO

    @property
    def label(self) -> str:
        return " ".join(NOTES[bar] for bar in sorted(set(self.bars)))


# split -> subset -> (groups, clips a group). A subset's gallery is exactly that subset.
COUNTS = {
    "train": {"": (1280, 1)},
    "val": {"order": (12, 8), "semantic": (48, 1), "lag": (8, 6), "drift": (8, 6)},
    "test": {
        "order": (24, 8),
        "timing": (16, 6),
        "semantic": (96, 1),
        "lag": (16, 6),
        "drift": (16, 6),
        "unseen": (16, 6),
        "static": (64, 1),
    },
}
SUBSETS = tuple(COUNTS["test"])


def clips(seed: int, scale: float = 1.0, difficulty: Difficulty = DEMO) -> list[Clip]:
    """All clips of a world. `scale` multiplies the number of groups (at least two, and eight clips to train on)."""
    found = []
    for split_index, (split, subsets) in enumerate(COUNTS.items()):
        for subset, (num_groups, group_size) in subsets.items():
            num_groups = max(round(num_groups * scale), 8 if split == "train" else 2)
            subset_index = SUBSETS.index(subset) if subset else len(SUBSETS)
            note_sets = _note_sets(np.random.default_rng([seed, split_index, subset_index]), subset)
            if note_sets and num_groups > len(note_sets):
                raise ValueError(
                    f"scale: {split} {subset} has {len(note_sets)} sets of notes, {num_groups} were asked for"
                )
            for index in range(num_groups):
                rng = np.random.default_rng([seed, split_index, subset_index, index])
                group = f"{split}-{subset}-{index:03d}" if subset else f"{split}-{index:05d}"
                members = _group(rng, difficulty, subset, group_size, note_sets[index] if note_sets else None)
                for member, (bars, picture_onsets, sound_onsets) in enumerate(members):
                    found.append(
                        Clip(
                            id=group if group_size == 1 else f"{group}-{member}",
                            split=split,
                            subset=subset,
                            group=group,
                            bars=tuple(map(int, bars)),
                            picture_onsets_s=tuple(map(float, picture_onsets)),
                            sound_onsets_s=tuple(map(float, sound_onsets)),
                            unseen=subset == "unseen",
                            difficulty=difficulty,
                        )
                    )
    return found


def gallery(seed: int, count: int, *, one_multiset: bool = False) -> list[Clip]:
    """`count` more clips, in sync, for galleries of any size.

    Melodies and rhythms of their own as in `train`; or, with one_multiset, one rhythm and random orders of one multiset
    of notes, so that only the order of events tells clips apart.
    """
    shared = np.random.default_rng([seed, len(COUNTS), int(one_multiset)])
    bars, onsets = _bars(shared, DEMO), _rhythm(shared, DEMO)
    found = []
    for index in range(count):
        rng = np.random.default_rng([seed, len(COUNTS), int(one_multiset), index])
        if one_multiset:
            bars = rng.permutation(bars)
        else:
            bars, onsets = _bars(rng, DEMO), _rhythm(rng, DEMO)
        times = tuple(map(float, onsets))
        found.append(Clip(f"gallery-{index:06d}", "gallery", "", "", tuple(map(int, bars)), times, times))
    return found


def ghosts(rng: np.random.Generator, difficulty: Difficulty) -> list[tuple[int, float, float]]:
    """(bar, onset_s, level) of strokes that are only seen, or only heard: glints, a player next door."""
    number = rng.integers(difficulty.max_ghosts + 1)
    return list(
        zip(
            rng.integers(len(NOTES), size=number).tolist(),
            rng.uniform(0, difficulty.clip_s, number).tolist(),
            rng.uniform(0.3, 0.9, number).tolist(),
            strict=True,
        )
    )


Melody = tuple[np.ndarray, np.ndarray, np.ndarray]  # bars, picture onsets, sound onsets


def _group(
    rng: np.random.Generator, difficulty: Difficulty, subset: str, size: int, note_set: np.ndarray | None
) -> list[Melody]:
    """Related clips: each subset says what its members share and in what they differ."""
    if subset == "static":
        assert note_set is not None
        onsets = np.arange(0.0, difficulty.clip_s, 0.08)
        return [(note_set[np.arange(len(onsets)) % len(note_set)], onsets, onsets)]
    if subset == "semantic":
        assert note_set is not None
        bars = rng.permutation(np.concatenate([note_set, rng.choice(note_set, difficulty.num_strokes - len(note_set))]))
        onsets = _rhythm(rng, difficulty)
        return [(bars, onsets, onsets)]
    if subset == "timing":
        bars = _bars(rng, difficulty)
        rhythms = [_rhythm(rng, difficulty) for _ in range(size)]
        return [(bars, onsets, onsets) for onsets in rhythms]
    if subset == "":
        onsets = _rhythm(rng, difficulty)
        return [
            (
                _bars(rng, difficulty),
                onsets,
                _desynchronised(rng, onsets, rng.choice(["", "lag", "drift"], p=[0.7, 0.15, 0.15])),
            )
        ]
    onsets = _rhythm(rng, difficulty, unseen=subset == "unseen")
    return [(bars, onsets, _desynchronised(rng, onsets, subset)) for bars in _orders(rng, _bars(rng, difficulty), size)]


def _desynchronised(rng: np.random.Generator, onsets: np.ndarray, how: str) -> np.ndarray:
    if how == "lag":
        return onsets + rng.uniform(-MAX_LAG_S, MAX_LAG_S)
    if how == "drift":
        return onsets / np.exp(rng.uniform(*np.log(SPEEDS)))
    return onsets


def _bars(rng: np.random.Generator, difficulty: Difficulty) -> np.ndarray:
    """A melody over five of the bars: repeated notes make its multiset a weak fingerprint."""
    return rng.permutation(np.resize(rng.choice(len(NOTES), 5, replace=False), difficulty.num_strokes))


def _rhythm(rng: np.random.Generator, difficulty: Difficulty, unseen: bool = False) -> np.ndarray:
    """Onsets from 0.5 s on that leave room at the end: with lag or drift no stroke leaves the clip."""
    low, high = difficulty.unseen_unit_s[rng.integers(2)] if unseen else difficulty.unit_s
    gaps = rng.uniform(low, high) * rng.choice([2, 3, 4], difficulty.num_strokes - 1)
    gaps *= min(1.0, 0.6375 * difficulty.clip_s / gaps.sum())
    first = rng.uniform(0.5, 0.775 * difficulty.clip_s - gaps.sum())
    return first + np.concatenate([[0.0], np.cumsum(gaps)])


def _orders(rng: np.random.Generator, bars: np.ndarray, size: int) -> list[np.ndarray]:
    """`size` different orders of one multiset of notes, each a few exchanges away from the same melody."""
    orders = {tuple(bars)}
    while len(orders) < size:
        order = bars.copy()
        for _ in range(NUM_EXCHANGES):
            first = rng.integers(len(order))
            second = rng.choice(np.flatnonzero(order != order[first]))
            order[[first, second]] = order[[second, first]]
        orders.add(tuple(order))
    return [np.array(order) for order in sorted(orders)]


def _note_sets(rng: np.random.Generator, subset: str) -> list[np.ndarray] | None:
    """Distinct sets of notes, shuffled: `semantic` and `static` clips differ in which notes occur."""
    sizes = {"semantic": (2, 3, 4, 5), "static": (1, 2, 3)}.get(subset)
    if sizes is None:
        return None
    masks = [m for m in range(1, 2 ** len(NOTES)) if m.bit_count() in sizes]
    return [np.flatnonzero([m >> bar & 1 for bar in range(len(NOTES))]) for m in rng.permutation(masks)]
