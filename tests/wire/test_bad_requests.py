"""One bad request fails alone, with a message that says what to change, and nothing else is harmed."""

import math
from typing import Any

import grpc
import pytest

from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.sampling.parameters import Processing
from text_generation_server.wire.limits import WireVersion

from .conftest import MAX_LENGTH, RunningShard
from .router_messages import IMAGE_BYTES, prefill, request
from .spelling_model import eos_id

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"parameters": {"temperature": math.nan}}, "`temperature` must be > 0. Given: nan"),
    "temperature 0": ({"parameters": {"temperature": 0.0}}, "`temperature` must be > 0. Given: 0.0"),
    "top_p": ({"parameters": {"top_p": math.nan}}, "`top_p` must be"),
    "top_p above 1": ({"parameters": {"top_p": 1.5}}, "`top_p` must be"),
    "typical_p": ({"parameters": {"typical_p": math.nan}}, "`typical_p` must be"),
    "top_k": ({"parameters": {"top_k": 2**32 - 1}}, "`top_k` must be"),
    "repetition_penalty": ({"parameters": {"repetition_penalty": math.inf}}, "`repetition_penalty` must be"),
    "frequency_penalty": ({"parameters": {"frequency_penalty": -math.inf}}, "`frequency_penalty` must be"),
    "grammar": (
        {"parameters": {"grammar": "(", "grammar_type": pb.GRAMMAR_TYPE_REGEX}},
        "`grammar` cannot be compiled: unclosed group",
    ),
    "grammar_type": (
        {"parameters": {"grammar": "a", "grammar_type": 3}},
        "`grammar_type` must be one of GRAMMAR_TYPE_JSON, GRAMMAR_TYPE_REGEX. Given: 3",
    ),
    "top_n_tokens": ({"top_n_tokens": 21}, "`top_n_tokens` must be 0 (off) to 20. Given: 21"),
    "max_new_tokens": ({"max_new_tokens": 0}, "`max_new_tokens` must be"),
    "max_new_tokens too large": ({"max_new_tokens": MAX_LENGTH}, "`max_new_tokens`"),
    "stop_sequences": ({"stop_sequences": [""]}, "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name_and_the_next_one_is_served(
    stub: Any, running: RunningShard, name: str
) -> None:
    fields, message = BAD[name]
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Prefill(prefill(0, request(0, "a", **fields)))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refusal.value.details()
    stub.ClearCache(pb.ClearCacheRequest(id=0))  # what the router does next
    assert stub.Prefill(prefill(1, request(1, "a"))).generations[0].tokens.texts[0] == "b"
    assert not running.fatal


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_among_good_ones_gets_its_error_as_its_answer(
    stub: Any, running: RunningShard, name: str
) -> None:
    fields, message = BAD[name]
    answer = stub.Prefill(prefill(3, request(10, "a"), request(11, "b", **fields), request(12, "m")))
    by_id = {each.request_id: each for each in answer.generations}
    assert set(by_id) == {10, 11, 12}
    assert by_id[10].tokens.texts[0] == "b"
    assert by_id[12].tokens.texts[0] == "n"
    refused = by_id[11]
    assert message in refused.generated_text.text
    # The router zips these four lists, streams the text, divides by the count, and leaves special text out.
    assert list(refused.tokens.texts) == [refused.generated_text.text]
    assert (list(refused.tokens.ids), list(refused.tokens.logprobs)) == ([eos_id()], [0.0])
    assert list(refused.tokens.is_special) == [False]
    assert refused.generated_text.generated_tokens == 1
    assert refused.generated_text.finish_reason == pb.FINISH_REASON_EOS_TOKEN
    assert sorted(answer.batch.request_ids) == [10, 12]
    assert len(running.engine.live_slots) == 2


def test_a_batch_of_bad_requests_fails_as_a_whole_with_each_reason_once(stub: Any) -> None:
    bad = [request(0, "a", top_n_tokens=21), request(1, "a", top_n_tokens=21)]
    other = request(2, "a", parameters={"top_p": 2.0})
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Prefill(prefill(0, *bad, other))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details().count("`top_n_tokens`") == 1
    assert "`top_p`" in refusal.value.details()


def test_a_bad_request_does_not_disturb_a_running_batch(stub: Any) -> None:
    batch = stub.Prefill(prefill(0, request(0, "a"))).batch
    with pytest.raises(grpc.RpcError):
        stub.Prefill(prefill(1, request(1, "a", top_n_tokens=21)))
    stub.ClearCache(pb.ClearCacheRequest(id=1))
    answer = stub.Decode(pb.DecodeRequest(batches=[batch]))
    assert answer.generations[0].tokens.texts[0] == "c"


def test_what_routers_send_without_meaning_it_is_not_refused(stub: Any) -> None:
    # /v1/completions always wants prefill logprobs; OpenAI clients' model names arrive as adapters; an empty
    # grammar is none.
    harmless = request(
        0,
        "a",
        prefill_logprobs=True,
        adapter_id="gpt-4o",
        parameters={"grammar": "", "grammar_type": pb.GRAMMAR_TYPE_REGEX},
    )
    generation = stub.Prefill(prefill(0, harmless)).generations[0]
    assert generation.tokens.texts[0] == "b"
    assert not generation.HasField("prefill_tokens")


def test_an_image_is_refused_in_a_request(running: RunningShard) -> None:
    message = request(0, "a")
    message.input_chunks.chunks.add(image=pb.Image(data=IMAGE_BYTES, mimetype="image/png"))
    with pytest.raises(grpc.RpcError, match="`inputs` must be text"):
        running.stub(WireVersion.V3).Prefill(prefill(0, message))


def test_several_chunks_of_text_are_one_prompt(running: RunningShard) -> None:
    message = request(0, "not used")
    del message.input_chunks.chunks[:]
    message.input_chunks.chunks.add(text="k")
    message.input_chunks.chunks.add(text="p")
    answer = running.stub(WireVersion.V3).Prefill(prefill(0, message))
    assert answer.generations[0].tokens.texts[0] == "q"
    assert len(running.engine.fills[0].token_ids) == 3


def test_duplicate_ids_in_a_batch_are_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError, match="`id` must be unique"):
        stub.Prefill(prefill(0, request(4, "a"), request(4, "b")))


def test_an_empty_batch_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError, match="`requests` must not be empty"):
        stub.Prefill(prefill(0))


def test_chunking_is_refused_since_it_was_not_offered(running: RunningShard) -> None:
    message = prefill(1, request(1, "a"))
    message.cached_batch.id = 0
    with pytest.raises(grpc.RpcError, match="`cached_batch` must be absent"):
        running.stub(WireVersion.V3).Prefill(message)


def test_neutral_parameters_arrive_as_neutral(stub: Any, running: RunningShard) -> None:
    stub.Prefill(prefill(0, request(0, "a")))
    assert running.engine.fills[0].sampling.processing is Processing.NONE


def test_a_request_of_more_than_4_mib_arrives_and_is_truncated(running: RunningShard) -> None:
    # Routers list a cache position for every token of a request.
    message = prefill(0, request(0, "ab " * 1000 + "g", slots=range(2_000_000)))
    assert message.ByteSize() > 4 * 2**20
    stub = running.stub(WireVersion.V3)
    batch = stub.Prefill(message).batch
    # The prompt is longer than a piece: its first token comes with a decode.
    answer = stub.Decode(pb.DecodeRequest(batches=[batch]))
    assert answer.generations[0].tokens.texts[0] == "h"
    assert len(running.engine.fills[0].token_ids) == 100


def test_a_long_message_of_an_error_fits_into_a_status(stub: Any) -> None:
    ids = [request(5, "a"), *(request(each, "a") for each in range(5_000))]
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Prefill(prefill(0, *ids))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details().startswith("`id` must be unique")


def test_a_frame_that_is_no_message_is_an_error_of_that_call_alone(running: RunningShard) -> None:
    method = "/generate.v3.TextGenerationService/Prefill"
    call = running.channel.unary_unary(method, request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.RpcError):
        call(b"\xff\xff\xff")
    # A string that is not UTF-8: field 2 of Request in field 2 of Batch in field 1 of PrefillRequest.
    with pytest.raises(grpc.RpcError):
        call(b"\x0a\x06\x12\x04\x12\x02\xc3\x28")
    running.stub(WireVersion.V3).Health(pb.HealthRequest())
    assert not running.fatal
