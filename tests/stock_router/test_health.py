"""Health checks of the stock routers, and requests that are refused. (Protocol section 1.7.)"""

import json
import time
from contextlib import ExitStack

import pytest

from stock_router.http_client import Body
from stock_router.oracle import Oracle
from stock_router.questions import PROMPTS
from stock_router.stock_service import StockService

REFUSED: list[Body] = [{"stop": [""]}, {"grammar": {"type": "regex", "value": "("}}]
"""What the routers let through, and the shard does not."""


def test_the_service_is_healthy_before_any_traffic(service: StockService) -> None:
    assert service.health_before_traffic == 200


def test_the_service_is_healthy_while_every_slot_is_taken(service: StockService) -> None:
    with ExitStack() as stack:
        for prompt in PROMPTS[:6]:
            body = {"inputs": prompt, "parameters": {"max_new_tokens": 30}}
            streams = stack.enter_context(service.http.opened("/generate_stream", body))
            if prompt in PROMPTS[:4]:
                next(streams)
        started = time.monotonic()
        assert [service.http.health() for _ in range(5)] == [200] * 5
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("parameters", REFUSED, ids=["stop", "grammar"])
def test_a_request_that_cannot_be_served_is_told_so_and_the_next_is_served(
    service: StockService, oracle: Oracle, parameters: Body
) -> None:
    (field,) = parameters
    response = service.http.post(
        "/generate", {"inputs": "a", "parameters": parameters | {"max_new_tokens": 4}}
    )
    assert response.status_code == 424
    assert response.json()["error_type"] == "generation"
    assert f"`{field}`" in response.json()["error"]
    # After an error the router asks with a prefill of its own.
    assert service.http.health() == 200
    answer = service.http.generate(PROMPTS[0], max_new_tokens=16)["generated_text"]
    assert answer == oracle.greedy(PROMPTS[0]).text


def test_a_request_that_cannot_be_served_leaves_the_running_ones_alone(
    service: StockService, oracle: Oracle
) -> None:
    body = {"inputs": PROMPTS[1], "parameters": {"max_new_tokens": 16}}
    with service.http.opened("/generate_stream", body) as events:
        next(events)
        refused = service.http.post("/generate", {"inputs": "a", "parameters": REFUSED[0]})
        assert refused.status_code == 424
        assert service.http.health() == 200
        last = json.loads(list(events)[-1])
    assert last["generated_text"] == oracle.greedy(PROMPTS[1]).text
