"""Tools of a chat: who may be called, how a call is answered, and the grammar that the shard is given."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from front.enforced import allows
from front.fake_shard import FakeShard
from front.running_front import CHAT, RunningFront, running_front
from text_generation_server.pb import messages_pb2 as pb
from tpu_tgi.router.chat.tools import DEFAULT_TOOL_PROMPT
from tpu_tgi.router.settings import RouterSettings

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}

WRITES_CALL = 'write-{"function":~{"_name":~"get_weather",~"place":~"Bern,~CH",~"days":~3}}'
WRITES_NO_CALL = 'write-{"function":{"_name":"no_tool"}} eos-3 '


@pytest.fixture(scope="module")
def front(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFront]:
    """Its shard has room for prompts with tools."""
    shard = FakeShard(str(tmp_path_factory.mktemp("socket") / "shard-0"), max_length=256)
    with running_front(shard, RouterSettings(model_id=str(model_directory))) as running:
        yield running


def allowed_by_shard(front: RunningFront, call: str) -> bool:
    return allows(front.shard.requests[-1].parameters, call)


def test_a_call_is_answered_in_place_of_a_text(front: RunningFront) -> None:
    body = front.chat(WRITES_CALL, tools=[WEATHER, CLOCK], tool_choice="required").json()
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "0",
                        "type": "function",
                        "function": {
                            "description": None,
                            "name": "get_weather",
                            "arguments": '{"place":"Bern, CH","days":3}',
                        },
                    }
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]


def test_a_call_is_streamed_name_first_and_ends_with_its_reason(front: RunningFront) -> None:
    chunks = front.chat_chunks(WRITES_CALL, tools=[WEATHER], stream_options={"include_usage": True})
    *pieces, last, usage = chunks
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in pieces]
    assert calls[0] == {
        "index": 0,
        "id": "0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": "{"},
    }
    assert {call["function"]["name"] for call in calls[1:]} == {None}
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert arguments == '{"place": "Bern, CH", "days": 3}'
    assert last["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in (*pieces, last)] == [None] * len(pieces) + [
        "tool_calls"
    ]
    assert usage["usage"]["completion_tokens"] == 19


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_wants_no_tool_is_asked_again_without_them(front: RunningFront, stream: bool) -> None:
    """Usage and reason are those of the text; the stock router takes them from the first attempt."""
    before = len(front.shard.requests)
    if stream:
        *chunks, usage = front.chat_chunks(
            WRITES_NO_CALL, tools=[WEATHER], stream_options={"include_usage": True}
        )
        text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
        body = usage
    else:
        body = front.chat(WRITES_NO_CALL, tools=[WEATHER]).json()
        text = body["choices"][0]["message"]["content"]
        assert body["choices"][0]["finish_reason"] == "stop"
    assert text == " é1 é2"
    assert body["usage"]["completion_tokens"] == 3
    first, second = front.shard.requests[before:]
    assert "no_tool" in first.parameters.grammar
    assert second.parameters.grammar_type == pb.GRAMMAR_TYPE_NONE
    assert "get_weather" not in second.input_chunks.chunks[0].text.replace(WRITES_NO_CALL, "")


def test_a_streamed_attempt_is_given_up_as_soon_as_it_wants_no_tool(front: RunningFront) -> None:
    before = front.shard.count("Decode")
    rest = "~" * 600
    chunks = front.chat_chunks(WRITES_NO_CALL.replace("}}", f"}}}}{rest}"), tools=[WEATHER])
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert front.shard.count("Decode") - before < 30


def test_a_call_that_is_cut_off_is_422_and_a_reason_on_a_stream(front: RunningFront) -> None:
    response = front.chat(WRITES_CALL, tools=[WEATHER], max_tokens=12)
    assert response.status_code == 422
    assert response.json()["error_type"] == "tool_error"
    assert response.json()["error"].startswith(
        "Tool error: Failed to parse generated text: EOF while parsing"
    )
    for tokens in (3, 12):
        chunks = front.chat_chunks(WRITES_CALL, tools=[WEATHER], max_tokens=tokens)
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        (None, {"get_weather", "get_time", "no_tool"}),
        ("auto", {"get_weather", "get_time", "no_tool"}),
        ("required", {"get_weather", "get_time"}),
        ("get_time", {"get_time"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
def test_the_grammar_allows_the_tools_that_may_be_chosen(
    front: RunningFront, choice: object, allowed: set[str]
) -> None:
    front.chat(WRITES_CALL, tools=[WEATHER, CLOCK], tool_choice=choice)
    calls = {
        "get_weather": '{"function": {"_name": "get_weather", "place": "Bern"}}',
        "get_time": '{"function": {"_name": "get_time"}}',
        "no_tool": '{"function": {"_name": "no_tool"}}',
    }
    assert not allowed_by_shard(front, "{}")
    assert {name for name, call in calls.items() if allowed_by_shard(front, call)} == allowed


def test_choosing_none_is_the_same_as_having_no_tools(front: RunningFront) -> None:
    answer = front.chat("hello eos-2", tools=[WEATHER], tool_choice="none").json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": " é1"}
    request = front.shard.requests[-1]
    assert request.parameters.grammar_type == pb.GRAMMAR_TYPE_NONE
    assert request.input_chunks.chunks[0].text == "<s> user: hello eos-2 assistant:"


def test_a_tool_that_does_not_exist_is_refused_even_on_a_stream(front: RunningFront) -> None:
    for stream in (False, True):
        response = front.chat("hello", tools=[WEATHER], tool_choice="nothing", stream=stream)
        assert response.status_code == 422
        assert response.json() == {
            "error": "Tool error: Tool with name nothing not found",
            "error_type": "tool_error",
        }


def test_tools_and_a_response_format_exclude_each_other(front: RunningFront) -> None:
    grammar = {"type": "regex", "value": "a"}
    response = front.chat("hello", tools=[], response_format=grammar)
    assert response.status_code == 422
    assert response.json()["error"] == "Tool error: Grammar and tools are mutually exclusive"
    assert front.chat(WRITES_CALL, tools=[WEATHER], response_format={"type": "text"}).status_code == 200


@pytest.mark.parametrize(
    ("tool_prompt", "text"), [(None, DEFAULT_TOOL_PROMPT), ("", DEFAULT_TOOL_PROMPT), ("Use:", "Use:")]
)
def test_a_template_that_knows_no_tools_gets_them_with_the_last_message(
    front: RunningFront, tool_prompt: str | None, text: str
) -> None:
    front.chat(WRITES_CALL, tools=[WEATHER], tool_choice="required", tool_prompt=tool_prompt)
    listed = (
        '[{"type":"function","function":{"description":"Weather of a place","name":"get_weather","arguments":'
        '"{\\"type\\":\\"object\\",\\"properties\\":{\\"place\\":{\\"type\\":\\"string\\"},'
        '\\"days\\":{\\"type\\":\\"integer\\"}},\\"required\\":[\\"place\\"]}"}}]'
    )
    prompt = front.shard.requests[-1].input_chunks.chunks[0].text
    assert prompt == f"<s> user: {WRITES_CALL}\n---\n{listed}\n{text} assistant:"


@pytest.mark.parametrize(
    ("earlier", "expected"), [([], "0"), (["0"], "1"), (["7", "2"], "8"), (["call_x"], "[0-9a-f-]{36}")]
)
def test_ids_of_calls_go_on_from_those_of_the_conversation(
    front: RunningFront, earlier: list[str], expected: str
) -> None:
    messages: list[dict[str, Any]] = [
        {
            "role": "assistant",
            "tool_calls": [
                {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
                for call_id in earlier
            ],
        },
        {"role": "user", "content": WRITES_CALL},
    ]
    body = {"messages": messages, "tools": [WEATHER], "temperature": 0}
    (call,) = front.client.post(CHAT, json=body).json()["choices"][0]["message"]["tool_calls"]
    assert re.fullmatch(expected, call["id"])


def test_definitions_of_a_schema_move_with_it_into_the_grammar(front: RunningFront) -> None:
    """What pydantic writes for nested models. The stock router refuses it."""
    tool = {
        "type": "function",
        "function": {
            "name": "move",
            "parameters": {
                "type": "object",
                "properties": {"to": {"$ref": "#/$defs/Point"}},
                "required": ["to"],
                "$defs": {
                    "Point": {
                        "type": "object",
                        "properties": {"x": {"$ref": "#/$defs/Number"}},
                        "required": ["x"],
                    },
                    "Number": {"type": "integer"},
                },
            },
        },
    }
    front.chat('write-{"function":{"_name":"move","to":{"x":1}}}', tools=[tool], tool_choice="required")
    assert allowed_by_shard(front, '{"function": {"_name": "move", "to": {"x": 12}}}')
    assert not allowed_by_shard(front, '{"function": {"_name": "move", "to": {"x": "y"}}}')
