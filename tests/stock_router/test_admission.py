"""More requests than slots, and a router that was not told how many slots there are.

A v3 router is held back by the blocks that it hands out, so that requests wait in its queue; a v2 router only
counts tokens and sends them all, so that they wait in the shard. (Protocol sections 3.2, 3.5 and 3.6.)
"""

import json
import string
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

from stock_router.stock_service import StockService

SLOTS = 8
CLIENTS = 60
LASTING = {"inputs": "FOREVER", "parameters": {"max_new_tokens": 1000}}


def test_every_request_of_a_crowd_is_answered(router: str, speller: StockService) -> None:
    highest = Highest(speller, "tgi_batch_current_size")
    with highest:
        answers = speller.http.generate_all(
            [(letter, {"max_new_tokens": 40}) for letter in crowd()],
        )
    assert [answer["generated_text"] for answer in answers] == [
        rest_of_the_alphabet(each) for each in crowd()
    ]
    if router == "v3":
        assert SLOTS / 2 < highest.value <= SLOTS
    else:
        assert highest.value > SLOTS


def test_a_slot_that_gets_free_is_filled_at_once(speller: StockService) -> None:
    """Seven lasting requests, and one slot for many short ones, of which one always waits.

    With the launcher's default --waiting-served-ratio 0.3 each of them would wait until 20 steps have passed.
    """
    with ExitStack() as stack:
        lasting = [
            stack.enter_context(speller.http.opened("/generate_stream", LASTING)) for _ in range(SLOTS - 1)
        ]
        for stream in lasting:
            next(stream)
        with Counted(lasting[0]) as steps, ThreadPoolExecutor(2) as clients:
            short = [("v", {"max_new_tokens": 9})]
            answers = list(clients.map(speller.http.generate_all, [short] * 20))
    assert [answer["generated_text"] for (answer,) in answers] == ["wxyz"] * 20
    # The end of the sequence is a token too.
    assert 20 * 4 <= steps.value <= 20 * 9


def test_an_answer_may_be_longer_than_what_a_router_asks_for_at_once(speller: StockService) -> None:
    """Since 3.1.1 a router asks for 1024 tokens at most, and then for more with the text so far as the prompt."""
    with speller.http.opened(
        "/generate_stream", {"inputs": "FOREVER", "parameters": {"max_new_tokens": 1500, "details": True}}
    ) as stream:
        events = [json.loads(event) for event in stream]
    text = "".join(event["token"]["text"] for event in events)
    assert len(text) >= 1500
    assert text == (string.ascii_lowercase * 200)[: len(text)]
    assert events[-1]["generated_text"] == text
    assert events[-1]["details"]["finish_reason"] == "length"


def test_the_prompt_has_logprobs_if_the_launcher_allows_them(speller: StockService) -> None:
    details = speller.http.generate("xy", max_new_tokens=3, decoder_input_details=True)["details"]
    assert [token["text"] for token in details["prefill"]] == ["<s>", "x", "y"]
    assert details["prefill"][0]["logprob"] is None
    assert all(token["logprob"] < 0 for token in details["prefill"][1:])


class Counted:
    """Reads a stream while this is open, and counts its events."""

    def __init__(self, stream: Iterator[str]) -> None:
        self.value = 0
        self._stream = stream
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._done.is_set():
            next(self._stream)
            self.value += 1


class Highest:
    """The highest value of a gauge while this is open."""

    def __init__(self, service: StockService, gauge: str) -> None:
        self.value = 0.0
        self._service, self._gauge = service, gauge
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.value = max(self.value, self._service.http.metric(self._gauge))


def crowd() -> list[str]:
    return [string.ascii_lowercase[index % 25] for index in range(CLIENTS)]


def rest_of_the_alphabet(letter: str) -> str:
    return string.ascii_lowercase[string.ascii_lowercase.index(letter) + 1 :]
