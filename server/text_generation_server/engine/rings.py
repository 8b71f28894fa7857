"""Layers with a sliding window keep a ring of positions instead of the whole length. Arithmetic; no torch here.

Position p lies at index p mod size. What lies at an index after a write follows from where the write ended, so nothing
else is stored. The ring is longer than the window by two of the widest rows of a piece: for the first queries of a row
must find their window when the last ones are written, and what is written beyond the end of a prompt (padding, steps
that were started ahead) must not reach what the next queries see. A step may write several tokens of a slot: those of
all steps in flight must be fewer than the widest row of a piece has, which are 32 or more.
"""

from dataclasses import dataclass

MULTIPLE = 16
"""Of the size: arrays whose length is one lie in a TPU's memory without padding."""


@dataclass(frozen=True)
class Ring:
    """Attributes:
    window: how many positions a query sees, its own included.
    widest: tokens of the widest row of a piece.
    """

    window: int
    widest: int

    @property
    def size(self) -> int:
        """Positions that are kept."""
        return -(-(self.window + 2 * self.widest) // MULTIPLE) * MULTIPLE

    def first_seen(self, tokens: int, length: int) -> int:
        """The first position that is seen by what follows `tokens` in a slot of that length.

        The last piece of a prompt may begin earlier, see `filling.row_start`.
        """
        return max(0, min(tokens, length - self.widest) - self.window + 1)

    def first_kept(self, tokens: int) -> int:
        """The first position that a slot is sure to keep which holds so many tokens: more may have been written."""
        return max(0, tokens + self.widest - self.size)
