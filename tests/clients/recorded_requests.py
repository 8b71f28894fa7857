"""Requests that are sent to both routers, whose answers must be the same, byte for byte, or differ as written here."""

from dataclasses import dataclass
from typing import Any

from clients.differences import Difference

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY: dict[str, Any] = {"temperature": 0}

TOOL: dict[str, Any] = {
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
CALL = 'write-{"function":~{"_name":~"get_weather",~"place":~"Bern,~CH",~"days":~3}}'
NO_CALL = 'write-{"function":~{"_name":~"no_tool"}} eos-4 '

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "b": {"enum": ["x", 1, None]},
        "a": {"type": "array", "items": {"type": "number"}, "maxItems": 2},
        "c": {"type": "object"},
        "d": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/e"}]},
    },
    "required": ["b", "d"],
    "$defs": {"e": {"type": "string", "maxLength": 3}},
}

EARLIER_CALL = {"id": "7", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@dataclass(frozen=True)
class Recorded:
    """A request. `difference`: why the answers are not the same."""

    path: str
    body: dict[str, Any] | None
    difference: Difference | None = None


def asked(text: str = "hi eos-3 ", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **GREEDY, **fields}


RECORDED = {
    "models": Recorded("/v1/models", None),
    "info": Recorded("/info", None),
    "health": Recorded("/health", None),
    # --- chats ---
    "chat": Recorded(CHAT, asked()),
    "chat, stream": Recorded(CHAT, asked(stream=True)),
    "chat, stream with everything": Recorded(
        CHAT,
        asked(
            stream=True,
            logprobs=True,
            top_logprobs=2,
            model="some",
            stream_options={"include_usage": True},
        ),
    ),
    "chat, logprobs": Recorded(CHAT, asked(logprobs=True, top_logprobs=2, model="tgi")),
    "chat, cut": Recorded(CHAT, asked("a", max_tokens=2)),
    "chat, stopped": Recorded(CHAT, asked("a", stop=["é2"])),
    "chat, nulls": Recorded(
        CHAT,
        asked()
        | dict.fromkeys(["stop", "max_tokens", "tools", "tool_choice", "logprobs", "n", "seed", "model"]),
    ),
    "chat, ignored fields": Recorded(CHAT, asked(logit_bias=[1.0], n=3, user="me", top_k=0)),
    "chat, bad alternatives": Recorded(CHAT, asked(top_logprobs=9)),
    "chat, bad alternatives, stream": Recorded(CHAT, asked(top_logprobs=9, stream=True)),
    "chat, bad presence penalty": Recorded(CHAT, asked(presence_penalty=-2)),
    "chat, bad frequency penalty": Recorded(CHAT, asked(frequency_penalty=3)),
    "chat, failing shard": Recorded(CHAT, asked("a fail-decode ")),
    "chat, failing shard, stream": Recorded(CHAT, asked("a fail-decode ", stream=True)),
    "chat, lost": Recorded(CHAT, asked("a lose ")),
    "chat, no messages": Recorded(CHAT, {"messages": [], **GREEDY, "max_tokens": 1}),
    "chat, chunks": Recorded(
        CHAT,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
                    ],
                }
            ],
            **GREEDY,
            "max_tokens": 1,
        },
    ),
    "chat, continued": Recorded(
        CHAT,
        {"messages": [*asked()["messages"], {"role": "assistant", "content": "yes I "}], **GREEDY},
    ),
    "chat, string stop": Recorded(CHAT, asked(stop="é2"), Difference.STRING_STOP),
    "chat, top_p 1": Recorded(CHAT, asked(top_p=1), Difference.TOP_P),
    "chat, no content": Recorded(
        CHAT,
        {"messages": [{"role": "user", "content": None}, *asked()["messages"]], **GREEDY},
        Difference.NULL_CONTENT,
    ),
    "chat, bias": Recorded(CHAT, asked(logit_bias={"1": 2}), Difference.LOGIT_BIAS),
    "chat, both limits": Recorded(
        CHAT, asked(max_tokens=None, max_completion_tokens=2), Difference.BOTH_LIMITS
    ),
    "chat, wrong message": Recorded(CHAT, {"messages": [{"role": "user", "content": 3}]}),
    "chat, stream null": Recorded(CHAT, asked(stream=None)),
    "chat, stream options null": Recorded(CHAT, asked(stream_options=None)),
    # --- tools ---
    "call": Recorded(CHAT, asked(CALL, tools=[TOOL]), Difference.TOOL_CALLS_REASON),
    "call, stream": Recorded(CHAT, asked(CALL, tools=[TOOL], stream=True), Difference.TOOL_CALLS_REASON),
    "call, cut": Recorded(
        CHAT, asked(CALL, tools=[TOOL], max_tokens=6, stream=True), Difference.TOOL_CALLS_REASON
    ),
    "call, after a call": Recorded(
        CHAT,
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [EARLIER_CALL]},
                {"role": "tool", "tool_call_id": "7", "content": CALL},
            ],
            "tools": [TOOL],
            **GREEDY,
        },
        Difference.TOOL_CALLS_REASON,
    ),
    "no call": Recorded(CHAT, asked(NO_CALL, tools=[TOOL]), Difference.NO_TOOL_USAGE),
    "no call, stream": Recorded(CHAT, asked(NO_CALL, tools=[TOOL], stream=True)),
    "no tools": Recorded(CHAT, asked(tools=[TOOL], tool_choice="none")),
    "empty tools": Recorded(CHAT, asked(NO_CALL, tools=[]), Difference.NO_TOOL_USAGE),
    "unknown tool": Recorded(CHAT, asked(tools=[TOOL], tool_choice="nothing")),
    "unknown tool, stream": Recorded(CHAT, asked(tools=[TOOL], tool_choice="nothing", stream=True)),
    "tools and format": Recorded(CHAT, asked(tools=[], response_format={"type": "regex", "value": "a"})),
    "nested tool": Recorded(
        CHAT,
        asked(
            "write-{} ",
            tools=[{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
            tool_choice="required",
        ),
        Difference.NESTED_TOOL_SCHEMA,
    ),
    # --- formats and grammars ---
    "format, schema": Recorded(CHAT, asked("write-{} ", response_format={"type": "json", "value": SCHEMA})),
    "format, named schema": Recorded(
        CHAT,
        asked("write-{} ", response_format={"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}}),
    ),
    "format, OpenAI's schema": Recorded(
        CHAT,
        asked(
            "write-{} ",
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        ),
        Difference.RESPONSE_FORMAT,
    ),
    "format, any object": Recorded(
        CHAT, asked("write-{} ", response_format={"type": "json_object"}), Difference.RESPONSE_FORMAT
    ),
    "format, text": Recorded(CHAT, asked(response_format={"type": "text"}), Difference.RESPONSE_FORMAT),
    "grammar, regex": Recorded(
        "/generate",
        {"inputs": "write-[1] ", "parameters": {"grammar": {"type": "regex", "value": "("}, "details": True}},
    ),
    "grammar, without properties": Recorded(
        "/generate", {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": {"type": "object"}}}}
    ),
    "grammar, wrong schema": Recorded(
        "/generate", {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": {"type": "objekt"}}}}
    ),
    "grammar, wrong type in it": Recorded(
        "/generate",
        {
            "inputs": "a",
            "parameters": {"grammar": {"type": "json", "value": {"properties": {"a": {"$ref": "#/b"}}}}},
        },
        Difference.JSON_SCHEMAS,
    ),
    "grammar, not JSON": Recorded(
        "/generate", {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": "{"}}}
    ),
    "grammar, a number": Recorded(
        "/generate", {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": 3}}}
    ),
    "grammar, unknown": Recorded(
        "/generate", {"inputs": "a", "parameters": {"grammar": {"type": "xml", "value": 3}}}
    ),
    # --- completions ---
    "completion": Recorded(COMPLETIONS, {"prompt": "a eos-3", **GREEDY, "model": "some"}),
    "completion, stream": Recorded(COMPLETIONS, {"prompt": "a eos-3", **GREEDY, "stream": True}),
    "completions, stream": Recorded(
        COMPLETIONS, {"prompt": ["a eos-3", "b c eos-5"], **GREEDY, "stream": True}
    ),
    "completion, cut": Recorded(COMPLETIONS, {"prompt": "a", **GREEDY, "max_tokens": 2, "stream": True}),
    "completion, stopped": Recorded(COMPLETIONS, {"prompt": "a", **GREEDY, "stop": ["é2"]}),
    "completions, one refused": Recorded(COMPLETIONS, {"prompt": ["a eos-3", ""], **GREEDY}),
    "completions, one refused, stream": Recorded(
        COMPLETIONS, {"prompt": ["a eos-3", ""], **GREEDY, "stream": True}
    ),
    "completion, suffix": Recorded(COMPLETIONS, {"prompt": "a", "suffix": "b"}),
    "completions, too many": Recorded(COMPLETIONS, {"prompt": ["a"] * 5}),
    "completions, none": Recorded(COMPLETIONS, {"prompt": []}),
    "completion, numbers": Recorded(COMPLETIONS, {"prompt": [1, 2]}),
    # --- tokens ---
    "tokens": Recorded("/tokenize", {"inputs": "hé 漢字 👋🏽 a  b\n<|im_end|>x"}),
    "tokens, none": Recorded("/tokenize", {"inputs": ""}),
    "tokens of a chat": Recorded("/chat_tokenize", asked("hé 漢字 👋🏽")),
    "tokens of a chat with tools": Recorded("/chat_tokenize", asked("é", tools=[TOOL])),
    "tokens of a chat with a tool prompt": Recorded(
        "/chat_tokenize", asked("é", tools=[TOOL], tool_prompt="Use:", tool_choice="required")
    ),
    "tokens of a chat with a call": Recorded(
        "/chat_tokenize",
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        EARLIER_CALL,
                        {
                            "id": "8",
                            "type": "function",
                            "function": {
                                "name": "g",
                                "description": "d",
                                "parameters": {"b": 1.0, "a": [1, "é<"]},
                            },
                        },
                    ],
                },
                {"role": "tool", "tool_call_id": "7", "content": "x"},
            ]
        },
    ),
    # --- TGI's own routes ---
    "generate": Recorded(
        "/generate",
        {"inputs": "a eos-3", "parameters": {"details": True, "top_n_tokens": 2, "adapter_id": "some"}},
    ),
    "generate, prompt details": Recorded(
        "/generate", {"inputs": "a", "parameters": {"decoder_input_details": True, "max_new_tokens": 2}}
    ),
    "generate, stream": Recorded(
        "/generate_stream", {"inputs": "a eos-3", "parameters": {"details": True, "top_n_tokens": 1}}
    ),
    "compat": Recorded("/", {"inputs": "a eos-3", "parameters": {}}),
}
