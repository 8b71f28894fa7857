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


def test_a_slot_that_is_not_free_is_not_given() -> None:
    table = SlotTable(1)
    table.take(state(), 0)
    with pytest.raises(RuntimeError, match="Slot 0 is not free for request 7"):
        table.take(state(7), 0)
    with pytest.raises(RuntimeError, match="Slot 1 is not free"):
        table.take(state(7), 1)


def test_a_request_that_holds_a_slot_cannot_have_another() -> None:
    table, owner = SlotTable(2), state()
    table.take(owner, 0)
    with pytest.raises(RuntimeError, match="is prefilling"):
        table.take(owner, 1)


def test_a_slot_is_freed_once() -> None:
    table, owner = SlotTable(2), state()
    table.take(owner, 0)
    assert table.free(owner) == 0
    assert owner.slot is None
    with pytest.raises(RuntimeError, match="holds no slot"):
        table.free(owner)


def test_a_late_result_for_a_slot_that_has_a_new_owner_concerns_nobody() -> None:
    table, old, neighbour, new = SlotTable(2), state(), state(), state()
    table.take(old, 0)
    table.take(neighbour, 1)
    at_dispatch = table.owners()
    table.free(old)
    table.take(new, 0)
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
        elif table.free_slots:
            owner = state()
            table.take(owner, max(table.free_slots))
            held.append(owner)
        assert table.free_slots == set(range(size)) - {owner.slot for owner in held}
        assert table.owners() == {owner.slot: owner for owner in held}
