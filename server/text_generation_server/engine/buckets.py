"""The lengths for which programs exist. Few programs start fast; many waste less padding."""

SMALLEST_PREFILL = 32


def prefill_buckets(max_length: int) -> list[int]:
    """Padded prompt lengths, ascending: powers of two from 32, and max_length itself."""
    buckets = []
    size = SMALLEST_PREFILL
    while size < max_length:
        buckets.append(size)
        size *= 2
    return [*buckets, max_length]


def decode_lengths(max_length: int) -> list[int]:
    """Lengths of the cache that a decode step reads, ascending: a quarter, a half and all of it.

    A step reads up to the furthest live request: while all are short, the rest is padding that need not move.
    Below 128 positions the padding is too small to be worth a program.
    """
    return [length for length in (max_length // 4, max_length // 2) if length >= 128] + [max_length]


def bucket_for(length: int, buckets: list[int]) -> int:
    """The smallest bucket that holds `length`; ValueError if none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ValueError(f"length {length} is above the largest bucket {buckets[-1]}")
