"""POST /generate and /: shapes, parameters and headers."""

import json
from importlib.metadata import version

import pytest

from front.conftest import StartFront
from front.running_front import RunningFront


def test_an_answer_holds_only_the_text_unless_details_are_asked_for(front: RunningFront) -> None:
    response = front.generate("hello", max_new_tokens=3)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{"generated_text":" é1 é2 é3"}'


def test_details_have_the_stock_shape_and_shortest_logprobs(front: RunningFront) -> None:
    response = front.generate("hello eos-2", max_new_tokens=9, details=True)
    assert json.loads(response.text) == {
        "generated_text": " é1",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 2,
            "seed": None,
            "prefill": [],
            "tokens": [
                {"id": 101, "text": " é1", "logprob": -0.34, "special": False},
                {"id": 2, "text": "</s>", "logprob": -0.68, "special": True},
            ],
        },
    }
    assert '"logprob":-0.34,' in response.text


def test_decoder_input_details_bring_the_prompt_with_null_for_its_first_logprob(front: RunningFront) -> None:
    details = front.generate("hello", max_new_tokens=1, decoder_input_details=True).json()["details"]
    assert details["prefill"] == [
        {"id": 1, "text": "<s>", "logprob": None},
        {"id": 7, "text": "word", "logprob": -1.5},
    ]


def test_top_tokens_come_for_each_token_when_asked_for(front: RunningFront) -> None:
    details = front.generate("hello", max_new_tokens=2, details=True, top_n_tokens=2).json()["details"]
    assert [[token["id"] for token in top] for top in details["top_tokens"]] == [[101, 102], [102, 103]]


def test_a_body_without_parameters_samples_and_one_with_empty_parameters_is_greedy(
    front: RunningFront,
) -> None:
    front.client.post("/generate", json={"inputs": "sampled eos-1"})
    sampled = front.shard.requests[-1]
    front.client.post("/generate", json={"inputs": "greedy eos-1", "parameters": {}})
    greedy = front.shard.requests[-1]
    assert sampled.parameters.do_sample
    assert not greedy.parameters.do_sample


def test_an_absent_max_new_tokens_fills_the_slot(front: RunningFront) -> None:
    details = front.generate("one two three", details=True).json()["details"]
    assert details["generated_tokens"] == 64 - 4
    assert details["finish_reason"] == "length"


def test_more_than_1024_tokens_are_cut_to_the_room_that_there_is(start_front: StartFront) -> None:
    with start_front(shard={"max_length": 1100}) as front:
        assert front.generate("a eos-1", max_new_tokens=100_000).status_code == 200
        assert front.shard.requests[-1].stopping_parameters.max_new_tokens == 1100 - 3


def test_an_absent_seed_is_random_and_a_given_one_is_passed_on_exactly(front: RunningFront) -> None:
    seeds = set()
    for _ in range(3):
        seeds.add(
            front.generate("a", max_new_tokens=1, do_sample=True, details=True).json()["details"]["seed"]
        )
    assert len(seeds) == 3
    given = front.generate("a", max_new_tokens=1, do_sample=True, details=True, seed=2**64 - 1)
    assert given.json()["details"]["seed"] == 2**64 - 1


def test_parameters_reach_the_shard_with_neutral_values_for_those_that_are_absent(
    front: RunningFront,
) -> None:
    front.generate("a eos-1")
    absent = front.shard.requests[-1].parameters
    assert (absent.temperature, absent.top_k, absent.top_p, absent.typical_p) == (1.0, 0, 1.0, 1.0)
    assert (absent.repetition_penalty, absent.frequency_penalty) == (1.0, 0.0)
    front.generate(
        "a eos-1",
        temperature=0.5,
        top_k=7,
        top_p=0.25,
        typical_p=0.75,
        repetition_penalty=1.5,
        frequency_penalty=-2,
        watermark=True,
        adapter_id="some",
        stop=["x", "y"],
    )
    request = front.shard.requests[-1]
    given = request.parameters
    assert (given.temperature, given.top_k, given.top_p, given.typical_p) == (0.5, 7, 0.25, 0.75)
    assert (given.repetition_penalty, given.frequency_penalty, given.watermark) == (1.5, -2.0, True)
    assert not given.do_sample
    assert request.adapter_id == "some"
    assert list(request.stopping_parameters.stop_sequences) == ["x", "y"]


def test_a_stop_sequence_ends_the_answer_and_stays_in_it(front: RunningFront) -> None:
    answer = front.generate("a", max_new_tokens=9, stop=["é2"], details=True).json()
    assert answer["generated_text"] == " é1 é2"
    assert answer["details"]["finish_reason"] == "stop_sequence"


def test_truncate_makes_room_for_a_long_prompt(front: RunningFront) -> None:
    prompt = " ".join(["word"] * 100)
    assert front.generate(prompt, max_new_tokens=3).status_code == 422
    response = front.generate(prompt, max_new_tokens=3, truncate=10)
    assert response.status_code == 200
    assert response.headers["x-prompt-tokens"] == "10"
    request = front.shard.requests[-1]
    assert request.truncate == 10
    assert request.input_chunks.chunks[0].text == prompt
    assert len(request.slots) == 10 + 3 - 1


def test_without_truncate_the_shard_is_told_the_longest_prompt(front: RunningFront) -> None:
    front.generate("a", max_new_tokens=1)
    assert front.shard.requests[-1].truncate == 63


def test_return_full_text_puts_the_untruncated_prompt_first(front: RunningFront) -> None:
    answer = front.generate("a b c d", max_new_tokens=1, return_full_text=True, truncate=2).json()
    assert answer["generated_text"] == "a b c d é1"


def test_best_of_answers_with_the_best_and_lists_the_others(front: RunningFront) -> None:
    answer = front.generate("a", max_new_tokens=2, best_of=2, do_sample=True, details=True).json()
    (other,) = answer["details"]["best_of_sequences"]
    assert other["generated_text"] == " é1 é2"
    assert other["seed"] != answer["details"]["seed"]
    assert set(other) == {"generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens"}


def test_timing_headers_are_those_of_the_stock_router(front: RunningFront) -> None:
    headers = front.generate("añb", max_new_tokens=4).headers
    assert headers["x-compute-type"] == "1-fake"
    assert headers["x-compute-characters"] == "3"
    assert headers["x-prompt-tokens"] == "2"
    assert headers["x-generated-tokens"] == "4"
    assert float(headers["x-compute-time"]) > 0
    for name in ("total-time", "validation-time", "queue-time", "inference-time", "time-per-token"):
        assert headers[f"x-{name}"].isdigit()


def test_the_compat_route_answers_with_an_array_and_with_the_prompt(front: RunningFront) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    response = front.client.post("/", json=body)
    assert response.text == '[{"generated_text":"a é1"}]'
    assert response.headers["x-generated-tokens"] == "1"
    body["parameters"] = {"max_new_tokens": 1, "return_full_text": False}
    assert front.client.post("/", json=body).text == '[{"generated_text":" é1"}]'


def test_the_compat_route_streams_when_asked_to(front: RunningFront) -> None:
    response = front.client.post(
        "/", json={"inputs": "a", "parameters": {"max_new_tokens": 1}, "stream": True}
    )
    assert response.headers["content-type"] == "text/event-stream"
    assert '"generated_text":"a é1"' in response.text


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
def test_health_is_an_empty_200(front: RunningFront, path: str) -> None:
    response = front.client.get(path)
    assert (response.status_code, response.content) == (200, b"")
    assert front.client.head(path).status_code == 200


def test_info_has_every_key_of_the_stock_router(front: RunningFront) -> None:
    info = front.client.get("/info").json()
    model_id = info.pop("model_id")
    assert model_id.startswith("/")
    assert info == {
        "model_sha": None,
        "model_pipeline_tag": None,
        "max_concurrent_requests": 128,
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_input_tokens": 63,
        "max_total_tokens": 64,
        "validation_workers": 2,
        "max_client_batch_size": 4,
        "router": "text-generation-router",
        "version": "3.3.6-dev0",
        "sha": None,
        "docker_label": f"tpu-tgi {version('tpu-tgi')}",
    }
