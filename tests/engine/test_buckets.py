"""Every length finds the smallest program that holds it."""

import pytest

from text_generation_server.engine.buckets import bucket_for, decode_lengths, prefill_buckets


@pytest.mark.parametrize("max_length", [2, 31, 32, 33, 100, 512, 1000, 2048])
def test_every_prompt_length_has_a_bucket_that_wastes_less_than_half(max_length: int) -> None:
    buckets = prefill_buckets(max_length)
    assert buckets == sorted(set(buckets))
    for length in range(1, max_length + 1):
        bucket = bucket_for(length, buckets)
        assert length <= bucket <= max_length
        assert bucket <= max(32, 2 * length)


@pytest.mark.parametrize(
    ("max_length", "lengths"),
    [(64, [64]), (256, [128, 256]), (512, [128, 256, 512]), (1000, [128, 256, 512, 1000])],
)
def test_decode_reads_powers_of_two_of_the_cache(max_length: int, lengths: list[int]) -> None:
    assert decode_lengths(max_length) == lengths


@pytest.mark.parametrize("max_length", [1000, 8192, 131072])
def test_a_step_never_reads_more_than_twice_what_its_longest_request_needs(max_length: int) -> None:
    lengths = decode_lengths(max_length)
    for position in {1, 128, 129, 300, max_length // 3, max_length // 2 + 1, max_length}:
        assert bucket_for(position, lengths) <= max(128, 2 * position)


def test_a_length_beyond_the_largest_bucket_is_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="65 is above the largest bucket 64"):
        bucket_for(65, [32, 64])
