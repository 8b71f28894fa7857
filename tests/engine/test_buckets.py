"""Every length finds the smallest program that holds it, and every prompt its pieces."""

import numpy as np
import pytest

from text_generation_server.engine.buckets import PieceShape, bucket_for, decode_lengths, piece_shapes
from text_generation_server.engine.filling import FillingSlot, PieceRow, next_rows, piece_arrays
from text_generation_server.sampling.parameters import SamplingParameters


@pytest.mark.parametrize("max_length", [2, 31, 32, 33, 100, 512, 2048, 131072])
@pytest.mark.parametrize("slots", [1, 8, 128])
def test_a_prompt_goes_in_pieces_of_which_the_last_wastes_less_than_half(max_length: int, slots: int) -> None:
    shapes = piece_shapes(slots, max_length, 256)
    assert all(shape.width <= max_length and shape.rows <= 8 and shape.tokens <= 256 for shape in shapes)
    for missing in range(1, min(max_length, 300)):
        filling = FillingSlot(0, np.zeros(missing + 1, np.int32), 0, SamplingParameters(), 0, False, False)
        shape, rows = next_rows([filling], shapes)
        covered = rows[-1].end
        assert covered == min(missing, shapes[-1].tokens)
        assert shape.tokens <= max(32, 2 * covered)


def test_prompts_share_a_piece_in_their_order_and_a_long_one_has_it_alone() -> None:
    def filling(slot: int, missing: int, scored: bool = False) -> FillingSlot:
        ids = np.arange(missing + 1, dtype=np.int32) + 100 * slot
        return FillingSlot(slot, ids, 0, SamplingParameters(), 0, False, scored)

    def cut(*prompts: FillingSlot) -> tuple[str, list[tuple[int, int, int]]]:
        shape, rows = next_rows(prompts, piece_shapes(8, 2048, 256))
        return str(shape), [(row.filling.slot, row.start, row.end) for row in rows]

    assert cut(filling(0, 5)) == ("1x32", [(0, 0, 5)])
    assert cut(filling(0, 40), filling(1, 3)) == ("4x32", [(0, 0, 32), (0, 32, 40), (1, 0, 3)])
    assert cut(filling(0, 300), filling(1, 3)) == ("1x256", [(0, 0, 256)])
    assert cut(filling(0, 3, scored=True), filling(1, 3)) == ("1x32", [(0, 0, 3)])
    shape, rows = cut(*(filling(slot, 60) for slot in range(8)))
    assert (shape, len(rows)) == ("8x32", 8)


def test_a_row_that_would_reach_past_its_slot_begins_earlier_with_the_tokens_that_are_there() -> None:
    filling = FillingSlot(3, np.arange(60, dtype=np.int32), 40, SamplingParameters(), 0, False, False)
    shape = PieceShape(1, 32)
    arrays = piece_arrays([PieceRow(filling, 40, 59)], shape, max_length=64)
    assert (arrays["slots"].tolist(), arrays["starts"].tolist()) == ([3], [32])
    assert arrays["ids"][0].tolist() == [*range(32, 59), *[0] * 5]


@pytest.mark.parametrize(
    ("max_length", "lengths"),
    [
        (64, [64]),
        (256, [128, 256]),
        (1000, [128, 256, 512, 1000]),
        (2048, [128, 256, 512, 1024, 1536, 2048]),
        (3000, [128, 256, 512, 1024, 1536, 2048, 3000]),
    ],
)
def test_decode_reads_powers_of_two_and_finer_steps_of_a_long_cache(
    max_length: int, lengths: list[int]
) -> None:
    assert decode_lengths(max_length) == lengths


@pytest.mark.parametrize("max_length", [1000, 8192, 131072])
def test_a_step_reads_at_most_twice_what_its_longest_request_needs_and_less_if_that_is_long(
    max_length: int,
) -> None:
    lengths = decode_lengths(max_length)
    for position in {1, 128, 129, 300, max_length // 3, max_length // 2 + 1, max_length}:
        most = 2 * position if position < 1024 else 1.5 * position
        assert bucket_for(position, lengths) <= max(128, most)


def test_a_length_beyond_the_largest_bucket_is_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="65 is above the largest bucket 64"):
        bucket_for(65, [32, 64])
