"""Many requests at once, and clients that leave."""

import json
from contextlib import ExitStack

from stock_router.oracle import Oracle
from stock_router.questions import PROMPTS
from stock_router.stock_service import StockService, wait_until

BATCH_SIZE = 4


def test_thirty_two_requests_at_once_are_answered_as_they_would_be_alone(
    service: StockService, oracle: Oracle
) -> None:
    asked = [(PROMPTS[index % 8], 1 + index % 16) for index in range(32)]
    answers = service.http.generate_all([(prompt, {"max_new_tokens": length}) for prompt, length in asked])
    assert [answer["generated_text"] for answer in answers] == [oracle.greedy(*each).text for each in asked]


def test_streams_at_once_are_answered_as_they_would_be_alone(service: StockService, oracle: Oracle) -> None:
    with ExitStack() as stack:
        streams = [
            stack.enter_context(service.http.opened("/generate_stream", streamed(prompt, 16)))
            for prompt in PROMPTS[:5]
        ]
        texts = [[json.loads(event)["generated_text"] for event in stream][-1] for stream in streams]
    assert texts == [oracle.greedy(prompt).text for prompt in PROMPTS[:5]]


def test_a_client_that_leaves_frees_its_slot_and_disturbs_nobody(
    service: StockService, oracle: Oracle
) -> None:
    alone = service.http.generate(PROMPTS[1], max_new_tokens=48)["generated_text"]
    assert alone.startswith(oracle.greedy(PROMPTS[1]).text)
    dropped = service.http.metric("tgi_request_failure")
    with service.http.opened("/generate_stream", streamed(PROMPTS[1], 48)) as stays:
        next(stays)
        for _ in range(2):
            with ExitStack() as stack:
                for prompt in PROMPTS[2:5]:
                    leaves = stack.enter_context(
                        service.http.opened("/generate_stream", streamed(prompt, 100))
                    )
                    next(leaves)
            # Three more fit into the batch only if the slots of those who left are free.
            wait_until(lambda: service.http.metric("tgi_batch_current_size") <= 1)
        events = [json.loads(event) for event in stays]
    assert events[-1]["generated_text"] == alone
    assert service.http.metric("tgi_request_failure") >= dropped + 6
    wait_until(lambda: service.http.metric("tgi_batch_current_size") == 0)


def test_all_clients_may_leave_and_the_next_are_served(service: StockService, oracle: Oracle) -> None:
    with ExitStack() as stack:
        for prompt in PROMPTS[:BATCH_SIZE]:
            stream = stack.enter_context(service.http.opened("/generate_stream", streamed(prompt, 100)))
            next(stream)
    questions = [(prompt, {"max_new_tokens": 16}) for prompt in PROMPTS[:5]]
    answers = [body["generated_text"] for body in service.http.generate_all(questions)]
    assert answers == [oracle.greedy(prompt).text for prompt in PROMPTS[:5]]


def streamed(prompt: str, max_new_tokens: int) -> dict[str, object]:
    return {"inputs": prompt, "parameters": {"max_new_tokens": max_new_tokens}}
