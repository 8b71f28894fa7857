"""Answers of the demo model through the stock routers, against transformers."""

import json
import math

import pytest

from stock_router.http_client import Body
from stock_router.oracle import Oracle
from stock_router.questions import AFTER_A_SPACE, PROMPTS, QUESTION, SHORTLY_ANSWERED
from stock_router.stock_service import StockService


@pytest.mark.parametrize("prompt", PROMPTS[:5])
def test_a_greedy_answer_is_that_of_transformers(service: StockService, oracle: Oracle, prompt: str) -> None:
    assert service.http.generate(prompt, max_new_tokens=16)["generated_text"] == oracle.greedy(prompt).text


def test_details_have_the_tokens_and_logprobs_of_transformers(service: StockService, oracle: Oracle) -> None:
    details = service.http.generate(PROMPTS[0], max_new_tokens=16, details=True)["details"]
    expected = oracle.greedy(PROMPTS[0])
    assert [token["id"] for token in details["tokens"]] == expected.token_ids
    assert [token["logprob"] for token in details["tokens"]] == pytest.approx(expected.logprobs, abs=1e-3)
    assert details["finish_reason"] == "length"
    assert details["generated_tokens"] == 16
    assert details["seed"] is None
    assert details["prefill"] == []


def test_a_stream_has_the_same_answer_in_pieces(service: StockService, oracle: Oracle) -> None:
    events = service.http.stream(PROMPTS[4], max_new_tokens=16, details=True)
    expected = oracle.greedy(PROMPTS[4])
    assert [event["token"]["id"] for event in events] == expected.token_ids
    assert "".join(event["token"]["text"] for event in events) == expected.text
    assert events[-1]["generated_text"] == expected.text
    assert [event["generated_text"] for event in events[:-1]] == [None] * 15
    assert events[-1]["details"]["finish_reason"] == "length"


def test_a_chat_is_answered_from_the_template(service: StockService, oracle: Oracle) -> None:
    body = service.http.post("/v1/chat/completions", chat()).raise_for_status().json()
    expected = oracle.greedy(oracle.chat_prompt(QUESTION))
    assert body["choices"][0]["message"] == {"role": "assistant", "content": expected.text}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 16
    assert [each["logprob"] for each in body["choices"][0]["logprobs"]["content"]] == pytest.approx(
        expected.logprobs, abs=1e-3
    )


def test_a_chat_stream_has_the_same_answer_in_pieces(service: StockService, oracle: Oracle) -> None:
    body = chat(stream=True, stream_options={"include_usage": True}, model="any-name")
    with service.http.opened("/v1/chat/completions", body) as stream:
        *events, end = list(stream)
    assert end == "[DONE]"
    *chunks, usage = [json.loads(event) for event in events]
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert content == oracle.greedy(oracle.chat_prompt(QUESTION)).text
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 16


def test_a_completion_is_answered(service: StockService, oracle: Oracle) -> None:
    """Without streaming, the router asks for logprobs of the prompt here, and drops them."""
    body = {"prompt": PROMPTS[:2], "max_tokens": 16, "temperature": 0.0}
    choices = service.http.post("/v1/completions", body).raise_for_status().json()["choices"]
    texts = {choice["index"]: choice["text"] for choice in choices}
    assert texts == {index: oracle.greedy(prompt).text for index, prompt in enumerate(PROMPTS[:2])}


def test_details_of_the_prompt_are_left_out(service: StockService, oracle: Oracle) -> None:
    """As with TGI, whose shard gives them only under --enable-prefill-logprobs."""
    body = service.http.generate(PROMPTS[0], max_new_tokens=16, decoder_input_details=True)
    assert body["generated_text"] == oracle.greedy(PROMPTS[0]).text
    assert body["details"]["prefill"] == []


def test_alternatives_come_with_each_token(service: StockService, oracle: Oracle) -> None:
    details = service.http.generate(PROMPTS[0], max_new_tokens=16, top_n_tokens=3, details=True)["details"]
    expected = oracle.greedy(PROMPTS[0])
    assert [alternatives[0]["id"] for alternatives in details["top_tokens"]] == expected.token_ids
    for alternatives in details["top_tokens"]:
        logprobs = [token["logprob"] for token in alternatives]
        assert len(logprobs) >= 3
        assert logprobs == sorted(logprobs, reverse=True)


def test_a_watermark_changes_an_answer(service: StockService, oracle: Oracle) -> None:
    marked = service.http.generate(PROMPTS[2], max_new_tokens=16, watermark=True)["generated_text"]
    assert marked != oracle.greedy(PROMPTS[2]).text
    assert marked == service.http.generate(PROMPTS[2], max_new_tokens=16, watermark=True)["generated_text"]


def test_an_answer_may_end_by_itself(service: StockService, oracle: Oracle) -> None:
    prompt = oracle.chat_prompt(SHORTLY_ANSWERED)
    expected = oracle.greedy(prompt)
    assert oracle.tokenizer.eos_token_id == expected.token_ids[-1], "the test needs a short answer"
    body = service.http.generate(prompt, max_new_tokens=16, details=True)
    assert body["generated_text"] == expected.text
    assert body["details"]["finish_reason"] == "eos_token"
    assert [token["special"] for token in body["details"]["tokens"]][-2:] == [False, True]


def test_a_stop_sequence_ends_the_text_right_after_itself(service: StockService, oracle: Oracle) -> None:
    # Cut out of the middle of the answer, so that it begins and ends within tokens.
    whole = oracle.greedy(PROMPTS[1]).text
    stop = whole[21:26]
    body = service.http.generate(PROMPTS[1], max_new_tokens=16, stop=[stop], details=True)
    assert body["generated_text"] == whole[: whole.index(stop) + len(stop)]
    assert body["details"]["finish_reason"] == "stop_sequence"


def test_a_prompt_is_truncated_from_the_left(service: StockService, oracle: Oracle) -> None:
    prompt = "This is left out. " + PROMPTS[0]
    kept = len(oracle.tokenizer(PROMPTS[0])["input_ids"])
    answer = service.http.generate(prompt, max_new_tokens=16, truncate=kept)
    assert answer["generated_text"] in (
        oracle.greedy(PROMPTS[0]).text,
        oracle.greedy(AFTER_A_SPACE).text,
    )


def test_prompt_and_answer_may_fill_a_slot(service: StockService, oracle: Oracle) -> None:
    limit = service.http.info()["max_total_tokens"]
    new = limit - len(oracle.tokenizer(PROMPTS[5])["input_ids"])
    body = service.http.generate(PROMPTS[5], max_new_tokens=new, details=True)
    assert body["details"]["generated_tokens"] == new
    assert body["generated_text"].startswith(oracle.greedy(PROMPTS[5]).text)
    long_prompt = oracle.tokenizer.decode(oracle.tokenizer("water " * limit)["input_ids"][: limit - 1])
    details = service.http.generate(long_prompt, max_new_tokens=1, details=True)["details"]
    assert details["generated_tokens"] == 1
    assert math.isfinite(details["tokens"][0]["logprob"])


def chat(**more: object) -> Body:
    return {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 16,
        "temperature": 0.0,
        "logprobs": True,
    } | more
