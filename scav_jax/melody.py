"""What is played in a clip, where a data set knows it: the notes, and when each is seen and heard."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Melody:
    """Notes in the order in which they are played, and the seconds at which each is seen and heard."""

    notes: Sequence[str]
    seen_s: Sequence[float]
    heard_s: Sequence[float]


@dataclass(frozen=True)
class Stroke:
    """One stroke of a picture, and the stroke of the same number of a sound."""

    seen: str
    seen_s: float
    heard: str
    heard_s: float

    @property
    def right(self) -> bool:
        return self.seen == self.heard


def strokes(picture: Melody, sound: Melody) -> list[Stroke]:
    """The first of the one beside the first of the other, and so on, as far as both go."""
    seen = zip(picture.notes, picture.seen_s, strict=True)
    heard = zip(sound.notes, sound.heard_s, strict=True)
    return [Stroke(*one, *other) for one, other in zip(seen, heard, strict=False)]
