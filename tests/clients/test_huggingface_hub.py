"""`huggingface_hub.InferenceClient`, as its users call it."""

import json
import re
from typing import Any

import jsonschema
import pytest
from huggingface_hub.errors import HfHubHTTPError, ValidationError

from clients.conftest import ANSWER_TOKENS, PROMPT, QUESTION, Service
from clients.differences import Difference, differs
from clients.tools import ASK, TOOL_PROMPT, WEATHER, WEATHER_SCHEMA
from stock_router.oracle import Oracle

# The client asks this before every request, also for an address of this machine.
OFFLINE = "huggingface_hub.constants.HF_HUB_OFFLINE"


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own setting keeps the hub out, and would keep this client in."""
    monkeypatch.setattr(OFFLINE, False)


ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
CALLS: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0.0, "max_tokens": 60}
CALLS |= TOOL_PROMPT


def test_a_text_has_the_prompt_in_front_unless_that_is_declined(service: Service, oracle: Oracle) -> None:
    expected = oracle.greedy(PROMPT, ANSWER_TOKENS).text
    hub = service.hub
    assert hub.text_generation(PROMPT, max_new_tokens=ANSWER_TOKENS) == PROMPT + expected
    text = hub.text_generation(PROMPT, max_new_tokens=ANSWER_TOKENS, return_full_text=False)
    assert text == expected


def test_details_have_the_tokens_and_logprobs_of_transformers(service: Service, oracle: Oracle) -> None:
    expected = oracle.greedy(PROMPT, ANSWER_TOKENS)
    answer = service.hub.text_generation(PROMPT, max_new_tokens=ANSWER_TOKENS, details=True, top_n_tokens=2)
    details = answer.details
    assert details is not None
    assert [token.id for token in details.tokens] == expected.token_ids
    assert [token.logprob for token in details.tokens] == pytest.approx(expected.logprobs, abs=1e-3)
    assert (details.finish_reason, details.generated_tokens) == ("length", ANSWER_TOKENS)
    # The client leaves these as they come.
    top_tokens: Any = details.top_tokens
    assert [top[0]["id"] for top in top_tokens] == expected.token_ids


def test_a_stream_has_the_same_text_in_pieces(service: Service, oracle: Oracle) -> None:
    expected = oracle.greedy(PROMPT, ANSWER_TOKENS).text
    assert "".join(service.hub.text_generation(PROMPT, max_new_tokens=ANSWER_TOKENS, stream=True)) == expected
    events = list(
        service.hub.text_generation(PROMPT, max_new_tokens=ANSWER_TOKENS, stream=True, details=True)
    )
    assert "".join(event.token.text for event in events) == expected
    assert events[-1].details is not None
    assert events[-1].details.finish_reason == "length"
    assert events[-1].generated_text == PROMPT + expected


def test_sampling_with_a_seed_is_repeatable(service: Service) -> None:
    texts = {
        service.hub.text_generation(
            PROMPT, max_new_tokens=ANSWER_TOKENS, do_sample=True, temperature=1.5, top_k=50, top_p=0.9, seed=5
        )
        for _ in range(2)
    }
    assert len(texts) == 1


def test_a_grammar_shapes_the_text(service: Service) -> None:
    grammar: Any = {"type": "regex", "value": "[0-9]{2}-[0-9]{2}"}
    text = service.hub.text_generation(PROMPT, max_new_tokens=16, grammar=grammar, return_full_text=False)
    assert re.fullmatch("[0-9]{2}-[0-9]{2}", text)


def test_a_refusal_is_raised_by_its_kind(service: Service) -> None:
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        service.hub.text_generation(PROMPT, temperature=0.0)
    with pytest.raises(HfHubHTTPError, match="`top_n_tokens` must be >= 0 and <= 5"):
        service.hub.chat_completion(ASKED, top_logprobs=9)


def test_a_chat_has_the_greedy_answer_of_transformers(service: Service, oracle: Oracle) -> None:
    answer = service.hub.chat_completion(ASKED, temperature=0.0, max_tokens=ANSWER_TOKENS, logprobs=True)
    expected = oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS)
    (choice,) = answer.choices
    assert choice.message.content == expected.text
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert [token.logprob for token in choice.logprobs.content] == pytest.approx(expected.logprobs, abs=1e-3)
    assert answer.usage.completion_tokens == ANSWER_TOKENS


def test_a_streamed_chat_has_the_same_answer(service: Service, oracle: Oracle) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        service.hub.chat_completion(
            ASKED, temperature=0.0, max_tokens=ANSWER_TOKENS, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS).text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == ANSWER_TOKENS


def test_a_tool_is_called(service: Service) -> None:
    answer = service.hub.chat_completion(ASK, **CALLS)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER_SCHEMA)


@differs(Difference.CALL_PIECES)
def test_a_streamed_call_is_whole(service: Service) -> None:
    """With the tokens of this model, the arguments that the stock router sends are empty."""
    chunks = list(service.hub.chat_completion(ASK, **CALLS, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "get_weather"
    arguments = "".join(call.function.arguments for call in calls)
    jsonschema.validate(json.loads(arguments), WEATHER_SCHEMA)


def test_an_answer_fits_its_schema(service: Service) -> None:
    """The client writes OpenAI's form, and sends TGI's."""
    response_format: Any = {
        "type": "json_schema",
        "json_schema": {"name": "weather", "schema": WEATHER_SCHEMA, "strict": True},
    }
    answer = service.hub.chat_completion(ASK, temperature=0.0, max_tokens=60, response_format=response_format)
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), WEATHER_SCHEMA)


def test_health_and_info_are_read(service: Service) -> None:
    assert service.hub.health_check()
    info = service.hub.get_endpoint_info()
    assert info["max_total_tokens"] == 320
    assert info["router"] == "text-generation-router"
