"""What a router does before it serves: discovery, clearing, Info and a warm-up that leaves nothing behind."""

from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.wire.limits import WireVersion, block_size, limits_for_router

from .conftest import BATCH_SIZE, MAX_LENGTH, RunningShard
from .router_messages import prefill, request, warmup_v2, warmup_v3

V3_BUDGET = (BATCH_SIZE + 1) * MAX_LENGTH
V2_BUDGET = BATCH_SIZE * MAX_LENGTH


def test_a_router_gets_through_its_start_sequence_and_its_first_batch(
    stub: Any, version: WireVersion, running: RunningShard
) -> None:
    for _ in range(2):  # a router that died is started again and repeats everything, with the same ids
        assert list(stub.ServiceDiscovery(pb.ServiceDiscoveryRequest()).urls) == [
            f"unix://{running.shard.socket_path}"
        ]
        stub.ClearCache(pb.ClearCacheRequest())
        stub.Info(pb.InfoRequest())
        warm_up(stub, version)
        v3 = version is WireVersion.V3
        answer = stub.Prefill(prefill(0, request(0, "a", v3=v3), request(1, "m", v3=v3)))
        assert [each.tokens.texts[0] for each in answer.generations] == ["b", "n"]
        assert answer.batch.id == 0
        assert list(answer.batch.request_ids) == [0, 1]


def test_a_v3_router_is_told_to_hand_out_one_block_for_each_slot(running: RunningShard) -> None:
    info = running.stub(WireVersion.V3).Info(pb.InfoRequest())
    assert info.requires_padding is False
    assert info.block_size == MAX_LENGTH
    assert info.support_chunking is False
    assert info.use_prefix_caching is False
    assert info.attention_impl == "static"
    assert info.speculate == 0
    assert not info.HasField("window_size")
    assert (info.dtype, info.device_type) == ("float32", "fake")


def test_a_v2_router_is_told_to_count_padded_tokens(running: RunningShard) -> None:
    info = running.stub(WireVersion.V2).Info(pb.InfoRequest())
    assert info.requires_padding is True
    assert info.speculate == 0
    assert not info.HasField("window_size")


@pytest.mark.parametrize("drafts", [1, 2, 4])
def test_with_speculation_a_request_that_fills_its_slot_finds_room_in_both_routers(drafts: int) -> None:
    for version in WireVersion:
        limits = limits_for_router(
            version,
            batch_size=BATCH_SIZE,
            max_length=MAX_LENGTH,
            drafts=drafts,
            max_input_tokens=None,
            max_prefill_tokens=100,
            max_total_tokens=MAX_LENGTH,
        )
        budget = limits.max_supported_total_tokens
        if version is WireVersion.V3:
            # What backends/v3/src/queue.rs asks for, in blocks of which the first is never handed out.
            asked = MAX_LENGTH + drafts - 1
            block = block_size(MAX_LENGTH, drafts)
            assert -(-asked // block) == 1
            assert budget // block - 1 == BATCH_SIZE
        else:
            # What backends/v2/src/queue.rs compares: room beside what the other slots hold, and in an empty batch.
            assert MAX_LENGTH + drafts <= budget - (BATCH_SIZE - 1) * MAX_LENGTH < 2 * MAX_LENGTH
            assert BATCH_SIZE * MAX_LENGTH + drafts <= budget
        assert limits.max_total_tokens == MAX_LENGTH


@pytest.mark.parametrize("engine_fields", [{"drafts": 4}])
def test_a_router_is_told_of_speculation(running: RunningShard) -> None:
    for version in WireVersion:
        info = running.stub(version).Info(pb.InfoRequest())
        assert (info.speculate, info.block_size) == (4, MAX_LENGTH + 3)
    answer = running.stub(WireVersion.V3).Warmup(warmup_v3(max_prefill_tokens=100))
    assert answer.max_supported_total_tokens == (BATCH_SIZE + 1) * (MAX_LENGTH + 3)


@pytest.mark.parametrize(
    ("given", "expected_input"),
    [
        ({"max_prefill_tokens": V3_BUDGET}, MAX_LENGTH - 1),
        ({"max_prefill_tokens": 100}, 100),
        ({"max_prefill_tokens": 300, "max_input_tokens": 60, "max_total_tokens": MAX_LENGTH}, 60),
        # N - truncate is negative here, and wraps around in the router.
        ({"max_prefill_tokens": 500, "max_total_tokens": MAX_LENGTH}, MAX_LENGTH - 1),
    ],
)
def test_a_v3_warm_up_answers_limits_that_the_router_accepts(
    running: RunningShard, given: dict[str, Any], expected_input: int
) -> None:
    answer = running.stub(WireVersion.V3).Warmup(warmup_v3(**given))
    assert answer.max_supported_total_tokens == V3_BUDGET
    assert answer.max_input_tokens == expected_input
    assert answer.max_total_tokens == MAX_LENGTH
    # The router's allocator: block 0 is its own, every other one is a slot.
    assert answer.max_supported_total_tokens // MAX_LENGTH - 1 == BATCH_SIZE


def test_a_v2_warm_up_answers_a_budget_of_all_slots(running: RunningShard) -> None:
    answer = running.stub(WireVersion.V2).Warmup(
        warmup_v2(max_prefill_tokens=V2_BUDGET, max_input_tokens=100, max_total_tokens=MAX_LENGTH)
    )
    assert answer.max_supported_total_tokens == V2_BUDGET


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            {"max_prefill_tokens": 100, "max_total_tokens": 2048},
            ["--max-total-tokens (2048)", "--max-total-tokens 128"],
        ),
        (
            {"max_prefill_tokens": 4096},
            ["--max-batch-prefill-tokens (4096)", f"--max-batch-prefill-tokens {V3_BUDGET}"],
        ),
        (
            {"max_prefill_tokens": 50, "max_input_tokens": 60},
            ["--max-input-tokens (60)", "--max-batch-prefill-tokens 60"],
        ),
        (
            {"max_prefill_tokens": 200, "max_input_tokens": 128},
            ["--max-input-tokens (128)", "--max-input-tokens 127"],
        ),
    ],
)
def test_limits_that_would_end_the_router_are_refused_with_what_to_change(
    running: RunningShard, given: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        running.stub(WireVersion.V3).Warmup(warmup_v3(**given))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for words in named:
        assert words in refusal.value.details()
    assert not running.fatal


def test_a_warm_up_compiles_and_generates_nothing_for_its_requests(
    stub: Any, version: WireVersion, running: RunningShard
) -> None:
    warm_up(stub, version)
    warm_up(stub, version)
    assert running.engine.calls["warm_up"] == 2
    assert running.engine.calls["fill"] == 0
    with pytest.raises(grpc.RpcError, match="Batch ID 0 not found"):
        stub.Decode(pb.DecodeRequest(batches=[pb.CachedBatch(id=0)]))


def test_prompts_of_routers_that_cannot_ask_for_special_tokens_get_them(running: RunningShard) -> None:
    v3 = running.stub(WireVersion.V3)
    v3.Warmup(warmup_v3(max_prefill_tokens=100, knows_add_special_tokens=False))
    running.stub(WireVersion.V2).Prefill(prefill(0, request(0, "a", v3=False)))
    v3.Prefill(prefill(1, request(1, "a", add_special_tokens=False)))
    v3.Warmup(warmup_v3(max_prefill_tokens=100))
    v3.Prefill(prefill(2, request(2, "a", add_special_tokens=False)))
    assert [len(call.token_ids) for call in running.engine.fills] == [2, 2, 1]


def test_reflection_lists_both_services(running: RunningShard) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(iter(stub.ServerReflectionInfo(iter([question]))))
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"generate.v2.TextGenerationService", "generate.v3.TextGenerationService"}


def warm_up(stub: Any, version: WireVersion) -> None:
    if version is WireVersion.V3:
        stub.Warmup(warmup_v3(max_prefill_tokens=300))
    else:
        stub.Warmup(warmup_v2(max_prefill_tokens=300, max_input_tokens=100, max_total_tokens=MAX_LENGTH))
