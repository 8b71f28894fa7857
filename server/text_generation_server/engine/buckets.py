"""The lengths for which programs exist. Few programs start fast; many waste less padding."""

SMALLEST_PREFILL = 32
SMALLEST_DECODE = 128


def prefill_buckets(max_length: int) -> list[int]:
    """Padded prompt lengths, ascending: powers of two from 32, and max_length itself."""
    return powers_of_two(SMALLEST_PREFILL, max_length)


def decode_lengths(max_length: int) -> list[int]:
    """Lengths of the cache that a decode step reads, ascending: powers of two from 128, and max_length itself.

    A step reads up to the furthest live request: while all are short, the rest is padding that need not move. So a
    step never moves more than twice what its longest request needs, whatever max_length is. Below 128 positions the
    padding is too small to be worth a program.
    """
    return powers_of_two(SMALLEST_DECODE, max_length)


def powers_of_two(smallest: int, largest: int) -> list[int]:
    """smallest, 2 * smallest, ... below `largest`, and `largest`."""
    lengths = []
    size = smallest
    while size < largest:
        lengths.append(size)
        size *= 2
    return [*lengths, largest]


def bucket_for(length: int, buckets: list[int]) -> int:
    """The smallest bucket that holds `length`; ValueError if none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ValueError(f"length {length} is above the largest bucket {buckets[-1]}")
