"""A slot's life: free, live, free; and the table of slots."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import small_tokenizers
from support.rooms import request
from text_generation_server.batching.request_state import RequestState
from text_generation_server.batching.slots import SlotTable
from text_generation_server.text.tokenizer import ModelTokenizer


def state(request_id: int = 0) -> RequestState:
    decoder = ModelTokenizer.from_transformers(small_tokenizers.byte_level())
    return RequestState(request(request_id), [1, 2], decoder, frozenset(), arrival=request_id)


def test_the_lowest_free_slot_is_given_first() -> None:
    table = SlotTable(3)
    first, second = state(), state()
    assert [table.take(first), table.take(second)] == [0, 1]
    table.free(first)
    assert table.take(state()) == 0
    assert table.take(state()) == 2


def test_a_full_table_gives_no_slot() -> None:
    table = SlotTable(1)
    table.take(state())
    with pytest.raises(RuntimeError, match="No slot is free for request 7"):
        table.take(state(7))


def test_a_request_that_holds_a_slot_cannot_have_another() -> None:
    table, owner = SlotTable(2), state()
    table.take(owner)
    with pytest.raises(RuntimeError, match="is running"):
        table.take(owner)


def test_a_slot_is_freed_once() -> None:
    table, owner = SlotTable(2), state()
    table.take(owner)
    assert table.free(owner) == 0
    assert owner.slot is None
    with pytest.raises(RuntimeError, match="holds no slot"):
        table.free(owner)


def test_a_late_result_for_a_slot_that_has_a_new_owner_concerns_nobody() -> None:
    table, old, neighbour, new = SlotTable(2), state(), state(), state()
    table.take(old)
    table.take(neighbour)
    at_dispatch = table.owners()
    table.free(old)
    table.take(new)
    assert table.still_live(at_dispatch) == {1: neighbour}
    assert table.owners() == {0: new, 1: neighbour}


@settings(deadline=None)
@given(st.lists(st.integers(0, 5)), st.integers(1, 4))
def test_slots_are_never_lost_nor_given_twice(choices: list[int], size: int) -> None:
    table = SlotTable(size)
    held: list[RequestState] = []
    for choice in choices:
        if choice < len(held):
            table.free(held.pop(choice))
        elif table.free_count:
            free = set(range(size)) - {owner.slot for owner in held}
            owner = state()
            assert table.take(owner) == min(free)
            held.append(owner)
        assert table.free_count == size - len(held)
        assert table.owners() == {owner.slot: owner for owner in held}
