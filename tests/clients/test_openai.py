"""The package `openai`, as its users call it."""

import json
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from clients.conftest import ANSWER_TOKENS, PROMPT, QUESTION, Service
from clients.differences import Difference, differs
from clients.tools import ASK, TOOL_PROMPT, WEATHER, WEATHER_SCHEMA
from stock_router.oracle import Oracle
from stock_router.questions import SHORTLY_ANSWERED

ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
GREEDY: dict[str, Any] = {"model": "tgi", "temperature": 0, "max_tokens": ANSWER_TOKENS}
TOOLS: dict[str, Any] = {
    "model": "tgi",
    "temperature": 0,
    "max_tokens": 60,
    "messages": ASK,
    "tools": [WEATHER],
    "extra_body": TOOL_PROMPT,
}


def test_the_model_is_listed(service: Service) -> None:
    (model,) = service.openai.models.list().data
    assert model.id == model.owned_by
    assert model.id.endswith("SmolLM2-135M-Instruct")


def test_a_chat_has_the_greedy_answer_of_transformers(service: Service, oracle: Oracle) -> None:
    answer = service.openai.chat.completions.create(messages=ASKED, logprobs=True, top_logprobs=2, **GREEDY)
    expected = oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS)
    (choice,) = answer.choices
    assert choice.message.content == expected.text
    assert (choice.message.role, choice.message.tool_calls) == ("assistant", None)
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.logprob for token in choice.logprobs.content] == pytest.approx(expected.logprobs, abs=1e-3)
    assert all(token.top_logprobs[0].token == token.token for token in choice.logprobs.content)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == ANSWER_TOKENS
    assert answer.usage.prompt_tokens == len(oracle.tokenizer(oracle.chat_prompt(QUESTION))["input_ids"])


def test_a_streamed_chat_has_the_same_answer_and_its_usage(service: Service, oracle: Oracle) -> None:
    stream = service.openai.chat.completions.create(
        messages=ASKED, stream=True, stream_options={"include_usage": True}, logprobs=True, **GREEDY
    )
    *chunks, usage = list(stream)
    expected = oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (ANSWER_TOKENS - 1) + ["length"]
    logprobs = [chunk.choices[0].logprobs.content[0].logprob for chunk in chunks]
    assert logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    assert usage.choices == []
    assert usage.usage.completion_tokens == ANSWER_TOKENS


def test_the_clients_own_stream_helper_works(service: Service, oracle: Oracle) -> None:
    asked: list[Any] = [{"role": "user", "content": SHORTLY_ANSWERED}]
    with service.openai.chat.completions.stream(messages=asked, **GREEDY | {"max_tokens": 16}) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.message.content == oracle.greedy(oracle.chat_prompt(SHORTLY_ANSWERED)).text
    assert choice.finish_reason == "stop"


def test_the_same_seed_gives_the_same_answer(service: Service) -> None:
    sampled: dict[str, Any] = {"model": "tgi", "max_tokens": ANSWER_TOKENS, "temperature": 1.5}
    answers = [
        service.openai.chat.completions.create(messages=ASKED, seed=seed, **sampled)
        .choices[0]
        .message.content
        for seed in (7, 7, 8)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_both_names_of_the_limit_work(service: Service) -> None:
    answer = service.openai.chat.completions.create(
        model="any", messages=ASKED, temperature=0, max_completion_tokens=2
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    assert answer.model == "any"


@differs(Difference.BOTH_LIMITS)
def test_a_limit_that_is_null_gives_way_to_the_other(service: Service) -> None:
    answer = service.openai.chat.completions.create(
        model="tgi", messages=ASKED, temperature=0, max_tokens=None, max_completion_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"


def test_a_list_of_stop_sequences_ends_the_answer(service: Service, oracle: Oracle) -> None:
    whole = oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS).text
    answer = service.openai.chat.completions.create(messages=ASKED, stop=[whole[5:9]], **GREEDY)
    assert answer.choices[0].message.content == whole[:9]


@differs(Difference.STRING_STOP)
def test_one_stop_sequence_may_be_a_string(service: Service, oracle: Oracle) -> None:
    whole = oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS).text
    answer = service.openai.chat.completions.create(messages=ASKED, stop=whole[5:9], **GREEDY)
    assert answer.choices[0].message.content == whole[:9]


@differs(Difference.TOP_P)
def test_a_top_p_of_1_is_no_top_p(service: Service, oracle: Oracle) -> None:
    answer = service.openai.chat.completions.create(messages=ASKED, top_p=1, **GREEDY)
    expected = oracle.greedy(oracle.chat_prompt(QUESTION), ANSWER_TOKENS).text
    assert answer.choices[0].message.content == expected


@differs(Difference.NULL_CONTENT)
def test_a_message_may_have_no_content(service: Service) -> None:
    messages: list[Any] = [{"role": "assistant", "content": None}, *ASKED]
    answer = service.openai.chat.completions.create(messages=messages, **GREEDY)
    assert answer.choices[0].message.content


@differs(Difference.LOGIT_BIAS)
def test_an_empty_bias_is_accepted(service: Service) -> None:
    answer = service.openai.chat.completions.create(messages=ASKED, logit_bias={}, **GREEDY)
    assert answer.choices[0].message.content


def test_a_tool_that_must_be_called_is_called(service: Service) -> None:
    answer = service.openai.chat.completions.create(tool_choice="required", **TOOLS)
    message = answer.choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert isinstance(call, openai.types.chat.ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER_SCHEMA)


@differs(Difference.TOOL_CALLS_REASON)
def test_an_answer_that_calls_a_tool_says_so(service: Service) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = service.openai.chat.completions.create(tool_choice=choice, **TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"


@differs(Difference.TOOL_CALLS_REASON)
def test_a_streamed_call_is_put_together_by_the_client(service: Service) -> None:
    with service.openai.chat.completions.stream(tool_choice="required", **TOOLS) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER_SCHEMA)


def test_a_model_that_may_choose_answers_with_a_call_or_a_text(service: Service) -> None:
    message = service.openai.chat.completions.create(**TOOLS | {"max_tokens": 40}).choices[0].message
    assert bool(message.content) != bool(message.tool_calls)


def test_the_result_of_a_call_is_taken_back(service: Service) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'}
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "0", "content": "Rain"},
    ]
    answer = service.openai.chat.completions.create(messages=messages, **GREEDY)
    assert answer.choices[0].message.content


class Place(pydantic.BaseModel):
    city: Literal["Paris", "Rome"]


class Trip(pydantic.BaseModel):
    start: Place
    days: Literal[1, 2]


@differs(Difference.NESTED_TOOL_SCHEMA)
def test_a_tool_may_be_a_nested_pydantic_model(service: Service) -> None:
    tool = openai.pydantic_function_tool(Trip, name="plan")
    answer = service.openai.chat.completions.parse(**TOOLS | {"tools": [tool], "tool_choice": "required"})
    assert answer.choices[0].message.tool_calls is not None
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Trip)


@differs(Difference.RESPONSE_FORMAT)
def test_an_answer_may_be_a_pydantic_model(service: Service) -> None:
    asked: dict[str, Any] = {"model": "tgi", "temperature": 0, "max_tokens": 60, "messages": ASK}
    answer = service.openai.chat.completions.parse(response_format=Trip, **asked)
    assert isinstance(answer.choices[0].message.parsed, Trip)


@differs(Difference.RESPONSE_FORMAT)
def test_an_answer_may_be_any_json_object(service: Service) -> None:
    answer = service.openai.chat.completions.create(
        messages=ASK, response_format={"type": "json_object"}, **GREEDY | {"max_tokens": 12}
    )
    assert (answer.choices[0].message.content or "").startswith("{")


@differs(Difference.RESPONSE_FORMAT)
def test_the_format_may_be_text(service: Service) -> None:
    answer = service.openai.chat.completions.create(
        messages=ASKED, response_format={"type": "text"}, **GREEDY
    )
    assert answer.choices[0].message.content


def test_tgis_own_form_of_a_schema_works(service: Service) -> None:
    answer = service.openai.chat.completions.create(
        messages=ASK,
        **GREEDY | {"max_tokens": 60},
        extra_body={"response_format": {"type": "json", "value": WEATHER_SCHEMA}},
    )
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), WEATHER_SCHEMA)


def test_a_completion_has_the_greedy_text_of_transformers(service: Service, oracle: Oracle) -> None:
    answer = service.openai.completions.create(prompt=PROMPT, **GREEDY)
    (choice,) = answer.choices
    assert choice.text == oracle.greedy(PROMPT, ANSWER_TOKENS).text
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + ANSWER_TOKENS


def test_several_prompts_have_a_choice_each(service: Service, oracle: Oracle) -> None:
    answer = service.openai.completions.create(prompt=[PROMPT, QUESTION], **GREEDY)
    texts = {choice.index: choice.text for choice in answer.choices}
    prompts = [PROMPT, QUESTION]
    assert texts == {i: oracle.greedy(prompt, ANSWER_TOKENS).text for i, prompt in enumerate(prompts)}


def test_several_prompts_are_streamed_side_by_side(service: Service, oracle: Oracle) -> None:
    texts = ["", ""]
    for chunk in service.openai.completions.create(prompt=[PROMPT, QUESTION], stream=True, **GREEDY):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [oracle.greedy(prompt, ANSWER_TOKENS).text for prompt in (PROMPT, QUESTION)]


def test_a_refusal_is_raised_with_its_reason(service: Service) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refusal:
        service.openai.chat.completions.create(messages=ASKED, **GREEDY | {"max_tokens": 10_000})
    assert "`inputs` tokens + `max_new_tokens` must be <= 320" in str(refusal.value.body)


def test_a_refusal_on_a_stream_is_raised_with_its_reason(service: Service) -> None:
    stream = service.openai.chat.completions.create(
        messages=ASKED, stream=True, **GREEDY | {"max_tokens": 10_000}
    )
    with pytest.raises(openai.APIError, match="`inputs` tokens"):
        list(stream)


def test_a_client_that_leaves_makes_room(service: Service) -> None:
    """Four slots, and more streams that are left than there are slots."""
    for _ in range(6):
        with service.openai.chat.completions.create(
            model="tgi", messages=ASKED, stream=True, max_tokens=200
        ) as stream:
            next(iter(stream))
    answer = service.openai.chat.completions.create(messages=ASKED, **GREEDY)
    assert answer.choices[0].message.content
