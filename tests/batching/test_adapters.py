"""Requests with adapters in one batch: each gets its own, an unknown one means the base model."""

from support.rooms import MakeRoom, request
from text_generation_server.batching.requests import GenerationRequest


def with_adapter(request_id: int, adapter_id: str | None, **fields: bool) -> GenerationRequest:
    return request(request_id, "the", max_new_tokens=4, adapter_id=adapter_id, **fields)


def test_each_request_of_a_batch_gets_its_adapter_also_in_a_slot_that_another_one_used(
    make_room: MakeRoom,
) -> None:
    room = make_room(adapters=("sql", "law"), batch_size=2)
    names = [None, "sql", "law", "gpt-4o", "", "sql"]
    alone = {
        name: [each.tokens[0].id for each in room.run(room.generator.prefill(0, [with_adapter(0, name)]))]
        for name in names
    }
    assert alone["gpt-4o"] == alone[""] == alone[None]
    assert len({tuple(tokens) for tokens in alone.values()}) == 3
    # Six requests on two slots.
    outcome = room.generator.prefill(1, [with_adapter(index, name) for index, name in enumerate(names)])
    answers: dict[int, list[int]] = {}
    for each in room.run(outcome):
        answers.setdefault(each.request_id, []).append(each.tokens[0].id)
    assert [answers[index] for index in range(len(names))] == [alone[name] for name in names]


def test_a_prompt_is_scored_with_its_requests_adapter(make_room: MakeRoom) -> None:
    room = make_room(adapters=("sql",), scores_prompts=True)
    prompts = [
        room.generator.prefill(0, [with_adapter(0, name, prompt_logprobs=True)]).generations[0].prompt
        for name in (None, "sql", "gpt-4o")
    ]
    base, sql, unknown = [prompt.logprobs[1:] for prompt in prompts if prompt is not None]
    assert sql != base
    assert unknown == base
