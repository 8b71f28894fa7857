"""The lengths for which programs exist. Few programs start fast; many waste less padding."""

from dataclasses import dataclass

SMALLEST_DECODE = 128

FINER_FROM = 1024
"""Positions from which a decode step has one more length between two powers of two."""

NARROWEST = 32
"""Tokens of the narrowest row of a piece: what prompts that share a piece are padded to."""

MOST_ROWS = 8
"""Rows of a piece at most. Each reads its slot for itself, so more would move more of the cache."""


@dataclass(frozen=True, order=True)
class PieceShape:
    """What one `extend` takes: rows of equal width, each a run of tokens of one prompt.

    Rows may belong to one prompt or to several. Rows that are not needed repeat the first one, which changes nothing.
    A row ends with its slot at the latest.
    """

    rows: int
    width: int

    @property
    def tokens(self) -> int:
        return self.rows * self.width

    def __str__(self) -> str:
        """As it stands in the name of a program."""
        return f"{self.rows}x{self.width}"

    @staticmethod
    def parse(text: str) -> "PieceShape":
        rows, width = text.split("x")
        return PieceShape(int(rows), int(width))


def piece_shapes(slots: int, max_length: int, chunk: int) -> list[PieceShape]:
    """The pieces of prompts for which there are programs, small ones first.

    Args:
        chunk: tokens of the largest piece.

    A piece is paid for as a whole: so there is one for each power of two of tokens. Several prompts share one in rows
    of NARROWEST, or wider where MOST_ROWS would be too few; a single prompt that fills the largest has it in one row.
    """
    narrow = min(NARROWEST, chunk, max_length)
    shapes = {PieceShape(1, min(chunk, max_length))}
    tokens = narrow
    while tokens <= min(chunk, slots * max_length):
        width = min(max(narrow, tokens // MOST_ROWS), max_length)
        shapes.add(PieceShape(min(tokens // width, MOST_ROWS), width))
        tokens *= 2
    return sorted(shapes, key=lambda shape: (shape.tokens, shape.rows))


def decode_lengths(max_length: int) -> list[int]:
    """Lengths of the cache that a decode step reads, ascending: powers of two from 128, from 1024 on those in the
    middle between two as well, and max_length itself.

    A step reads up to the furthest live request: while all are short, the rest is padding that need not move. So a
    step never moves more than twice what its longest request needs, whatever max_length is, and 1.5 times where the
    cache is much of what moves. Below 128 positions the padding is too small to be worth a program.
    """
    lengths = []
    size = SMALLEST_DECODE
    while size < max_length:
        lengths.append(size)
        if size >= FINER_FROM and size + size // 2 < max_length:
            lengths.append(size + size // 2)
        size *= 2
    return [*lengths, max_length]


def bucket_for(length: int, buckets: list[int]) -> int:
    """The smallest bucket that holds `length`; ValueError if none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ValueError(f"length {length} is above the largest bucket {buckets[-1]}")
