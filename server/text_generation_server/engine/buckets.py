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
    """Lengths of the cache that a decode step reads, ascending: a quarter and all of it.

    While every live request is short, reading the whole cache would move mostly padding.
    """
    quarter = max_length // 4
    return [quarter, max_length] if quarter >= 128 else [max_length]


def bucket_for(length: int, buckets: list[int]) -> int:
    """The smallest bucket that holds `length`; ValueError if none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ValueError(f"length {length} is above the largest bucket {buckets[-1]}")
