"""POST /v1/chat/completions: answers of text, whole and streamed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from front.conftest import StartFront
from front.fake_shard import FakeShard
from front.running_front import CHAT, RunningFront, running_front
from tpu_tgi.router.settings import RouterSettings


def test_an_answer_has_the_stock_shape(front: RunningFront) -> None:
    response = front.chat("hello eos-3")
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-compute-characters"] == str(len("<s> user: hello eos-3 assistant:"))
    assert response.headers["x-generated-tokens"] == "3"
    assert body.pop("created") > 1_700_000_000
    assert next(iter(body)) == "object"
    assert body == {
        "object": "chat.completion",
        "id": "",
        "model": front.client.get("/info").json()["model_id"],
        "system_fingerprint": "3.3.6-dev0-native",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " é1 é2"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


def test_the_template_writes_the_special_tokens(front: RunningFront) -> None:
    front.chat("hello eos-1")
    request = front.shard.requests[-1]
    assert request.input_chunks.chunks[0].text == "<s> user: hello eos-1 assistant:"
    assert not request.add_special_tokens


def test_a_stream_has_a_chunk_for_each_token_and_the_reason_in_the_last_one(front: RunningFront) -> None:
    chunks = front.chat_chunks("hello eos-3", model="some-name")
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": " é1"},
        {"role": "assistant", "content": " é2"},
        {"role": "assistant", "content": ""},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert {chunk["model"] for chunk in chunks} == {"some-name"}
    assert list(chunks[0]) == ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]
    assert {chunk["usage"] for chunk in chunks} == {None}


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(front: RunningFront) -> None:
    *tokens, usage = front.chat_chunks("hello eos-2", stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in tokens] == [None, None]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


@pytest.mark.parametrize("alternatives", [None, 2])
def test_logprobs_come_with_every_token(front: RunningFront, alternatives: int | None) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": alternatives}
    content = front.chat("hello eos-2", **fields).json()["choices"][0]["logprobs"]["content"]
    top = [{"token": "x", "logprob": -0.5}, {"token": "x", "logprob": -1.5}][: alternatives or 0]
    assert content == [
        {"token": " é1", "logprob": -0.34, "top_logprobs": top},
        {"token": "</s>", "logprob": -0.68, "top_logprobs": top},
    ]
    chunks = front.chat_chunks("hello eos-2", **fields)
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [{"content": [each]} for each in content]


def test_alternatives_without_logprobs_are_not_shown(front: RunningFront) -> None:
    assert front.chat("hello eos-2", top_logprobs=2).json()["choices"][0]["logprobs"] is None


def test_it_samples_unless_the_temperature_is_0(front: RunningFront) -> None:
    front.chat("hello eos-1")
    assert not front.shard.requests[-1].parameters.do_sample
    assert front.shard.requests[-1].parameters.temperature == 1.0
    front.chat("hello eos-1", temperature=None)
    assert front.shard.requests[-1].parameters.do_sample
    front.chat("hello eos-1", temperature=0.5, seed=3, presence_penalty=-0.5, frequency_penalty=0.5)
    given = front.shard.requests[-1].parameters
    assert (given.do_sample, given.temperature, given.seed) == (True, 0.5, 3)
    assert (given.repetition_penalty, given.frequency_penalty) == (1.5, 0.5)


@pytest.mark.parametrize(
    ("model", "adapter"), [("tgi", None), (None, None), ("dummy", "dummy"), ("org/adapter", "org/adapter")]
)
def test_the_model_is_the_adapter_that_the_shard_is_asked_for(
    front: RunningFront, model: str | None, adapter: str | None
) -> None:
    front.chat("hello eos-1", model=model)
    request = front.shard.requests[-1]
    assert (request.adapter_id if request.HasField("adapter_id") else None) == adapter


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_work(front: RunningFront, limit: str) -> None:
    choice = front.chat("hello", **{limit: 2}).json()["choices"][0]
    assert choice["message"]["content"] == " é1 é2"
    assert choice["finish_reason"] == "length"


def test_a_limit_that_is_null_is_no_limit(front: RunningFront) -> None:
    assert front.chat("hello", max_tokens=None).json()["usage"]["total_tokens"] == 64


def test_the_two_names_of_the_limit_contradict_each_other(front: RunningFront) -> None:
    response = front.chat("hello", max_tokens=2, max_completion_tokens=3)
    assert response.status_code == 422
    assert "`max_tokens` and `max_completion_tokens` are the same" in response.text
    assert front.chat("hello eos-1", max_tokens=None, max_completion_tokens=3).status_code == 200


@pytest.mark.parametrize("stop", ["é2", ["é2"]])
def test_a_stop_sequence_may_be_a_string_or_a_list(front: RunningFront, stop: object) -> None:
    choice = front.chat("hello", stop=stop).json()["choices"][0]
    assert choice["message"]["content"] == " é1 é2"
    assert choice["finish_reason"] == "stop_sequence"


@pytest.mark.parametrize("top_p", [1, 1.0])
def test_a_top_p_of_1_is_off(front: RunningFront, top_p: float) -> None:
    assert front.chat("hello eos-1", top_p=top_p).status_code == 200
    assert front.shard.requests[-1].parameters.top_p == 1.0
    assert front.chat("hello", top_p=1.5).json()["error_type"] == "validation"


def test_an_empty_bias_is_accepted_and_another_is_refused_by_name(front: RunningFront) -> None:
    harmless: object
    for harmless in ({}, [1.0], None):
        assert front.chat("hello eos-1", logit_bias=harmless).status_code == 200
    response = front.chat("hello", logit_bias={"5": -100})
    assert response.status_code == 422
    assert response.json()["error"].startswith("Input validation error: `logit_bias` is not supported")


def test_what_the_stock_router_ignores_is_ignored(front: RunningFront) -> None:
    response = front.chat("hello eos-1", n=3, user="me", parallel_tool_calls=False, top_k=0, store=True)
    assert response.status_code == 200
    assert len(response.json()["choices"]) == 1


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": None}], "<s> user:  assistant:"),
        (
            [
                {
                    "role": "user",
                    "name": "me",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "image_url", "image_url": {"url": "u"}},
                    ],
                }
            ],
            "<s> user: a![](u) assistant:",
        ),
        (
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "a",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"x": 1}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "a", "content": "é"},
            ],
            '<s> assistant: [{"id":"a","type":"function","function":{"description":null,"name":"f",'
            '"arguments":"\\"{\\\\\\"x\\\\\\": 1}\\""}}] tool: é assistant:',
        ),
        (
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a b "}],
            "<s> user: q assistant: a b",
        ),
    ],
)
def test_every_kind_of_message_reaches_the_prompt(
    front: RunningFront, messages: list[dict[str, Any]], prompt: str
) -> None:
    response = front.client.post(CHAT, json={"messages": messages, "max_tokens": 1})
    assert response.status_code == 200, response.text
    assert front.shard.requests[-1].input_chunks.chunks[0].text == prompt


def test_an_image_for_a_checkpoint_that_was_made_to_see_is_refused(
    model_directory: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "gemma"
    shutil.copytree(model_directory, directory)
    (directory / "config.json").write_text('{"model_type": "gemma3"}')
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}
    words = {"type": "text", "text": "what is this"}
    with running_front(FakeShard(str(tmp_path / "shard-0")), RouterSettings(str(directory))) as front:
        for content, status in ([words], 200), ([words, picture], 422):
            messages = [{"role": "user", "content": content}]
            response = front.client.post(CHAT, json={"messages": messages, "max_tokens": 1})
            assert response.status_code == status
        assert response.json()["error"] == (
            "Input validation error: `inputs` must be text: this model cannot see. Given: an image"
        )
        # As it stands in a prompt for a model that sees.
        assert front.generate("a ![](https://a.b/c.png)").status_code == 422
        assert front.generate("a [word](https://a.b) !", max_new_tokens=1).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", None),
        ("messages", [{"content": "a"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": 3}]),
        ("messages", [{"role": "user", "content": [{"type": "audio"}]}]),
        ("stream", None),
        ("stream_options", None),
        ("tools", [{"type": "function"}]),
        ("tool_choice", {"type": "function"}),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "regex", "value": 1}),
        ("max_tokens", -1),
        ("max_tokens", 2.0),
        ("logprobs", 1),
    ],
)
def test_a_wrong_type_is_422_in_plain_text_and_names_the_field(
    front: RunningFront, field: str, value: object
) -> None:
    response = front.chat("hello", **{field: value})
    assert response.status_code == 422
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text.startswith(f"Failed to deserialize the JSON body into the target type: {field}")


def test_a_refusal_on_a_stream_is_an_event_with_status_200(front: RunningFront) -> None:
    text = "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 9"
    assert front.chat("hello", top_logprobs=9).json() == {"error": text, "error_type": "validation"}
    assert front.chat_chunks("hello", top_logprobs=9) == [
        {"error": {"message": text, "http_status_code": 422}}
    ]


def test_a_failing_shard_is_424_or_an_event(front: RunningFront) -> None:
    text = "Request failed during generation: Server error: asked to fail-decode"
    response = front.chat("hello fail-decode")
    assert (response.status_code, response.json()) == (424, {"error": text, "error_type": "generation"})
    first, error = front.chat_chunks("hello fail-decode")
    assert first["choices"][0]["delta"]["content"] == " é1"
    assert error == {"error": {"message": text, "http_status_code": 422}}


def test_an_overloaded_router_refuses_a_chat(start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.05}, max_concurrent_requests=1) as front:
        with front.client.stream(
            "POST",
            CHAT,
            json={"messages": [{"role": "user", "content": "a"}], "stream": True},
        ) as running:
            lines = running.iter_lines()
            next(lines)
            assert front.chat("hello").status_code == 429
        assert front.client.get("/health").status_code == 200


def test_the_models_are_the_one_that_is_served(front: RunningFront) -> None:
    model_id = front.client.get("/info").json()["model_id"]
    assert front.client.get("/v1/models").json() == {
        "object": "list",
        "data": [{"id": model_id, "object": "model", "created": 0, "owned_by": model_id}],
    }
