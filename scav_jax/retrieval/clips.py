"""Encoded clips of one side, on the host or in a mapped file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Clips:
    """Encoded clips of one side: sequences (B, length, d) and their prefix masks (B, length), None: all are full."""

    sequences: Float[np.ndarray, "B length d"]
    mask: Bool[np.ndarray, "B length"] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Any) -> "Clips":
        return Clips(self.sequences[rows], None if self.mask is None else self.mask[rows])

    def pair(self) -> tuple[np.ndarray, np.ndarray | None]:
        """As programs take them."""
        return self.sequences, self.mask

    @property
    def valid(self) -> Bool[np.ndarray, "B length"]:
        """The mask, or what None stands for."""
        return np.ones(self.sequences.shape[:2], bool) if self.mask is None else self.mask

    def masked(self) -> "Clips":
        return self if self.mask is not None else Clips(self.sequences, self.valid)
