"""Prefill, Decode, FilterBatch and ClearCache in the order in which routers send them (protocol, 1.6)."""

from typing import Any

import grpc
import pytest

from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.wire.limits import WireVersion

from .conftest import BATCH_SIZE, MAX_LENGTH, RunningShard
from .router_messages import LIVENESS_ID, liveness, prefill, request
from .spelling_model import eos_id


def decode(stub: Any, *batches: pb.CachedBatch) -> pb.DecodeResponse:
    answer: pb.DecodeResponse = stub.Decode(pb.DecodeRequest(batches=batches))
    return answer


def drain(stub: Any, batch: pb.CachedBatch) -> dict[int, str]:
    """Decodes as the router does until no batch is left; the final texts by request."""
    finals: dict[int, str] = {}
    while True:
        answer = decode(stub, batch)
        for generation in answer.generations:
            assert generation.request_id not in finals, (
                "a second generation after the last one ends the router"
            )
            if generation.HasField("generated_text"):
                finals[generation.request_id] = generation.generated_text.text
        if not answer.HasField("batch"):
            return finals
        batch = answer.batch
        unfinished = [each for each in batch.request_ids if each not in finals]
        if len(unfinished) != batch.size:
            batch = stub.FilterBatch(pb.FilterBatchRequest(batch_id=batch.id, request_ids=unfinished)).batch


def test_each_token_comes_with_its_text_its_logprob_and_its_end(stub: Any, running: RunningShard) -> None:
    first = stub.Prefill(prefill(0, request(7, "x")))
    assert (first.batch.id, first.batch.size, list(first.batch.request_ids)) == (0, 1, [7])
    generation = first.generations[0]
    assert generation.request_id == 7
    assert list(generation.tokens.texts) == ["y"]
    assert list(generation.tokens.is_special) == [False]
    assert list(generation.tokens.logprobs) == [
        pytest.approx(running.engine.logprob_of(generation.tokens.ids[0]), rel=1e-6)
    ]
    assert not generation.HasField("generated_text")
    assert not generation.HasField("prefill_tokens")

    second = decode(stub, first.batch)
    assert list(second.generations[0].tokens.texts) == ["z"]
    last = decode(stub, second.batch)
    assert list(last.generations[0].tokens.ids) == [eos_id()]
    assert list(last.generations[0].tokens.is_special) == [True]
    end = last.generations[0].generated_text
    assert (end.text, end.generated_tokens, end.finish_reason) == ("yz", 3, pb.FINISH_REASON_EOS_TOKEN)
    assert not end.HasField("seed")
    assert not last.HasField("batch")


def test_durations_are_filled_in(stub: Any) -> None:
    first = stub.Prefill(prefill(0, request(0, "a")))
    second = decode(stub, first.batch)
    for answer in (first, second):
        assert answer.total_ns > 0
        assert answer.forward_ns + answer.decode_ns <= answer.total_ns
        assert not answer.HasField("concat_ns")


@pytest.mark.parametrize(
    ("asked", "text", "reason"),
    [
        ({"max_new_tokens": 2}, "bc", pb.FINISH_REASON_LENGTH),
        ({"max_new_tokens": 9, "stop_sequences": ["cd"]}, "bcd", pb.FINISH_REASON_STOP_SEQUENCE),
    ],
)
def test_a_request_ends_for_the_reason_that_it_gave(
    stub: Any, asked: dict[str, Any], text: str, reason: int
) -> None:
    answer = stub.Prefill(prefill(0, request(0, "a", **asked)))
    while answer.HasField("batch"):
        answer = decode(stub, answer.batch)
    end = answer.generations[0].generated_text
    assert (end.text, end.finish_reason) == (text, reason)


def test_the_seed_comes_back_if_the_request_sampled(stub: Any) -> None:
    seed = 2**64 - 3
    answer = stub.Prefill(
        prefill(0, request(0, "a", max_new_tokens=1, parameters={"do_sample": True, "seed": seed}))
    )
    assert answer.generations[0].generated_text.seed == seed
    assert not answer.HasField("batch")


def test_a_new_batch_joins_the_running_one_under_the_first_id(stub: Any) -> None:
    running = stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9))).batch
    running = decode(stub, running).batch
    new = stub.Prefill(prefill(1, request(1, "m", max_new_tokens=9)))
    assert list(new.generations) == [], "request 0 runs, and does not wait for the prompt of request 1"
    assert list(new.batch.request_ids) == [1]
    merged = decode(stub, running, new.batch).batch
    assert merged.id == 0
    assert sorted(merged.request_ids) == [0, 1]
    assert drain(stub, merged) == {0: "bcdefghij", 1: "nopqrstuv"}


def test_requests_beyond_the_slots_wait_and_are_all_served(stub: Any, running: RunningShard) -> None:
    requests = [request(each, "a", max_new_tokens=3 + each % 2) for each in range(3 * BATCH_SIZE)]
    answer = stub.Prefill(prefill(0, *requests))
    assert len(answer.generations) == BATCH_SIZE
    assert answer.batch.size == 3 * BATCH_SIZE
    assert answer.batch.max_tokens == BATCH_SIZE * MAX_LENGTH
    finals = drain(stub, answer.batch)
    assert finals == {each: "bcde"[: 3 + each % 2] for each in range(3 * BATCH_SIZE)}
    assert running.engine.live_slots == frozenset()


def test_a_full_batch_leaves_a_v2_router_no_budget_and_a_v3_router_some(
    stub: Any, version: WireVersion
) -> None:
    requests = [request(each, "a", max_new_tokens=9) for each in range(BATCH_SIZE)]
    used = stub.Prefill(prefill(0, *requests)).batch.max_tokens
    budget = {WireVersion.V2: BATCH_SIZE, WireVersion.V3: BATCH_SIZE + 1}[version] * MAX_LENGTH
    # A v3 router counts its blocks, and stops asking its queue at a budget of 0.
    assert budget - used == {WireVersion.V2: 0, WireVersion.V3: MAX_LENGTH}[version]


def test_filtering_frees_the_slots_of_those_who_left(stub: Any, running: RunningShard) -> None:
    requests = [request(each, "a", max_new_tokens=9) for each in range(BATCH_SIZE)]
    stub.Prefill(prefill(0, *requests))
    filtered = stub.FilterBatch(pb.FilterBatchRequest(batch_id=0, request_ids=[1, 3])).batch
    assert (list(filtered.request_ids), filtered.size) == ([1, 3], 2)
    assert filtered.max_tokens == 2 * MAX_LENGTH
    assert len(running.engine.live_slots) == 2
    assert drain(stub, filtered) == {1: "bcdefghij", 3: "bcdefghij"}


def test_filtering_what_is_not_held_is_answered_and_not_failed(stub: Any) -> None:
    assert not stub.FilterBatch(pb.FilterBatchRequest(batch_id=99, request_ids=[1])).HasField("batch")
    stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9)))
    kept = stub.FilterBatch(pb.FilterBatchRequest(batch_id=0, request_ids=[0, 55, 56])).batch
    assert list(kept.request_ids) == [0]
    assert not stub.FilterBatch(pb.FilterBatchRequest(batch_id=0, request_ids=[55])).HasField("batch")


def test_clearing_what_is_not_held_is_no_error(stub: Any, running: RunningShard) -> None:
    stub.ClearCache(pb.ClearCacheRequest(id=12345))
    stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9)))
    stub.Prefill(prefill(1, request(1, "a", max_new_tokens=9)))
    stub.ClearCache(pb.ClearCacheRequest(id=0))
    assert len(running.engine.live_slots) == 1
    stub.ClearCache(pb.ClearCacheRequest())
    assert running.engine.live_slots == frozenset()


def test_id_0_is_a_batch_and_not_the_absence_of_one(stub: Any, running: RunningShard) -> None:
    stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9)))
    stub.Prefill(prefill(1, request(1, "m", max_new_tokens=9)))
    stub.ClearCache(pb.ClearCacheRequest(id=0))
    assert list(decode(stub, pb.CachedBatch(id=1)).batch.request_ids) == [1]


def test_a_decode_of_an_unknown_batch_fails_and_harms_nobody(stub: Any, running: RunningShard) -> None:
    batch = stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9))).batch
    with pytest.raises(grpc.RpcError) as refusal:
        decode(stub, batch, pb.CachedBatch(id=77))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert refusal.value.details() == "Batch ID 77 not found in cache."
    assert drain(stub, batch) == {0: "bcdefghij"}
    assert not running.fatal


def test_a_decode_of_no_batch_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError, match="`batches` must"):
        stub.Decode(pb.DecodeRequest())


def test_batch_and_request_ids_may_be_used_again_without_clearing(stub: Any, running: RunningShard) -> None:
    # So does text-generation-benchmark in every run.
    for _ in range(3):
        requests = [request(each, "a", max_new_tokens=4) for each in range(BATCH_SIZE)]
        batch = stub.Prefill(prefill(0, *requests)).batch
        decode(stub, batch)
    assert len(running.engine.live_slots) == BATCH_SIZE


def test_a_liveness_request_is_answered_while_all_slots_are_taken(
    stub: Any, version: WireVersion, running: RunningShard
) -> None:
    requests = [request(each, "a", max_new_tokens=9) for each in range(BATCH_SIZE)]
    batch = stub.Prefill(prefill(0, *requests)).batch
    programs = running.engine.calls["fill"], running.engine.calls["decode"]
    answer = stub.Prefill(liveness(v3=version is WireVersion.V3))
    assert not answer.HasField("batch")
    assert len(answer.generations) == 1
    generation = answer.generations[0]
    assert generation.request_id == LIVENESS_ID
    assert {len(generation.tokens.ids), len(generation.tokens.texts), len(generation.tokens.logprobs)} == {1}
    assert generation.generated_text.generated_tokens == 1
    assert (running.engine.calls["fill"], running.engine.calls["decode"]) == programs
    assert drain(stub, batch) == dict.fromkeys(range(BATCH_SIZE), "bcdefghij")


def test_health_checks_do_not_wait_for_the_device(
    stub: Any, version: WireVersion, running: RunningShard
) -> None:
    with running.shard.lock:  # as during a long prefill or a compilation
        stub.Health(pb.HealthRequest(), timeout=5)
        stub.ServiceDiscovery(pb.ServiceDiscoveryRequest(), timeout=5)
        stub.Info(pb.InfoRequest(), timeout=5)
        stub.Prefill(liveness(v3=version is WireVersion.V3), timeout=5)


def test_both_versions_work_on_the_same_batches(running: RunningShard) -> None:
    v2, v3 = running.stub(WireVersion.V2), running.stub(WireVersion.V3)
    batch = v2.Prefill(prefill(0, request(0, "a", max_new_tokens=3, v3=False))).batch
    assert drain(v3, batch) == {0: "bcd"}


def test_the_stock_benchmark_gets_the_steps_that_it_counts_on(running: RunningShard) -> None:
    """It asks neither for Info nor for a warm-up, uses its ids again, and clears nothing (protocol section 7)."""
    stub, length = running.stub(WireVersion.V3), 6
    stub.ServiceDiscovery(pb.ServiceDiscoveryRequest())
    stub.ClearCache(pb.ClearCacheRequest())
    for size in (1, 1, BATCH_SIZE):
        requests = [
            # From "v" on, the model would come to its end earlier.
            request(each, "v", max_new_tokens=length, blocks=[], slots=[])
            for each in range(size)
        ]
        for each in requests:
            each.stopping_parameters.ignore_eos_token = True
        answer = stub.Prefill(prefill(0, *requests))
        decodes = 0
        while answer.HasField("batch"):
            answer = decode(stub, answer.batch)
            decodes += 1
        assert decodes == length - 1
        assert [each.generated_text.generated_tokens for each in answer.generations] == [length] * size
