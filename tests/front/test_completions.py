"""POST /v1/completions: one text or several, whole and streamed."""

import json
from typing import Any

import httpx
import pytest

from front.running_front import RunningFront
from text_generation_server.pb import messages_pb2 as pb


def complete(front: RunningFront, prompt: Any, **fields: Any) -> httpx.Response:
    body = {"prompt": prompt, "temperature": 0, **fields}
    return front.client.post("/v1/completions", json=body)


def stream(front: RunningFront, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    response = complete(front, prompt, stream=True, **fields)
    assert response.headers["content-type"] == "text/event-stream"
    *events, end, nothing = response.text.split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_an_answer_has_the_stock_shape(front: RunningFront) -> None:
    response = complete(front, "a eos-3", model="any")
    body = response.json()
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "object": "text_completion",
        "id": "",
        "model": front.client.get("/info").json()["model_id"],
        "system_fingerprint": "3.3.6-dev0-native",
        "choices": [{"index": 0, "text": " é1 é2", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }
    request = front.shard.requests[-1]
    assert request.add_special_tokens
    assert request.adapter_id == "any"


def test_several_prompts_are_answered_in_their_order_with_summed_counts(front: RunningFront) -> None:
    response = complete(front, ["a eos-4", "b c eos-2"], seed=5)
    body = response.json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, " é1 é2 é3"), (1, " é1")]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    assert response.headers["x-prompt-tokens"] == "7"
    assert response.headers["x-generated-tokens"] == "6"
    assert response.headers["x-compute-characters"] == "16"
    assert response.headers["x-compute-type"] == "1-fake"
    assert "x-compute-time" not in response.headers
    assert [request.parameters.seed for request in front.shard.requests[-2:]] == [5, 5]


def test_prompts_are_streamed_in_turn_until_all_have_ended(front: RunningFront) -> None:
    events = stream(front, ["a eos-4", "b c eos-2"])
    assert [(event["choices"][0]["index"], event["choices"][0]["text"]) for event in events] == [
        (0, " é1"),
        (1, " é1"),
        (0, " é2"),
        (1, "</s>"),
        (0, " é3"),
        (0, "</s>"),
    ]
    assert [event["choices"][0]["finish_reason"] for event in events] == [
        "", "", "", "eos_token", "", "eos_token",
    ]  # fmt: skip
    assert ["usage" in event for event in events] == [False, False, False, True, False, True]
    assert events[3]["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_the_first_failure_fails_all_unless_they_are_streamed(front: RunningFront) -> None:
    response = complete(front, ["a eos-3", ""])
    assert response.status_code == 422
    assert response.json()["error"] == "Input validation error: `inputs` cannot be empty"
    first, error, *rest = stream(front, ["a eos-3", ""])
    assert first["choices"][0]["text"] == " é1"
    assert error["error"] == {
        "message": "Input validation error: `inputs` cannot be empty",
        "http_status_code": 422,
    }
    assert [event["choices"][0]["text"] for event in rest] == [" é2", "</s>"]


def test_a_suffix_and_too_many_prompts_are_refused_with_the_stock_texts(front: RunningFront) -> None:
    for streamed in (False, True):
        response = complete(front, "a", suffix="b", stream=streamed)
        assert response.status_code == 422
        assert response.json() == {
            "error": "Suffix is not supported and can be achieved by preprocessing the prompt.",
            "error_type": "suffix not supported",
        }
        response = complete(front, ["a"] * 5, stream=streamed)
        assert response.status_code == 422
        assert response.json() == {
            "error": "Number of prompts exceeds the maximum allowed batch size of 4",
            "error_type": "batch size exceeded",
        }


@pytest.mark.parametrize("prompt", [[], [1, 2], [["a"]], None, 3])
def test_other_prompts_are_refused_by_name(front: RunningFront, prompt: object) -> None:
    response = complete(front, prompt)
    assert response.status_code == 422
    assert response.text.startswith("Failed to deserialize the JSON body into the target type: prompt")
    if prompt == []:
        assert "Do not use an empty array for the prompt." in response.text


@pytest.mark.parametrize("stop", ["é2", ["é2"]])
def test_a_stop_sequence_may_be_a_string_or_a_list(front: RunningFront, stop: object) -> None:
    (choice,) = complete(front, "a", stop=stop, top_p=1, suffix=None).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" é1 é2", "stop_sequence")


def test_logprobs_of_the_prompt_are_not_asked_for(front: RunningFront) -> None:
    """The stock router asks for them, and drops them."""
    complete(front, "a eos-1")
    assert not front.shard.requests[-1].prefill_logprobs


def test_parameters_reach_the_shard(front: RunningFront) -> None:
    complete(front, "a eos-1", temperature=0.5, top_p=0.25, repetition_penalty=1.5, frequency_penalty=-1)
    given = front.shard.requests[-1].parameters
    assert (given.do_sample, given.temperature, given.top_p) == (True, 0.5, 0.25)
    assert (given.repetition_penalty, given.frequency_penalty) == (1.5, -1)
    assert given.grammar_type == pb.GRAMMAR_TYPE_NONE


def test_a_client_that_leaves_a_stream_of_several_prompts_frees_their_places(front: RunningFront) -> None:
    body = {"prompt": ["a", "b"], "stream": True}
    with front.client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
    assert complete(front, ["a eos-1"] * 4).status_code == 200
