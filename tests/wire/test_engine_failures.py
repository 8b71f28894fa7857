"""When the engine fails, the router is told in words, is never made to panic, and the process ends."""

import threading
import time
from typing import Any

import grpc
import pytest

from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.wire.limits import WireVersion
from text_generation_server.wire.messages import encodable

from .conftest import RunningShard
from .router_messages import liveness, prefill, request, warmup_v3


def wait_for_fatal(running: RunningShard) -> BaseException:
    deadline = time.monotonic() + 5
    while not running.fatal and time.monotonic() < deadline:
        time.sleep(0.01)
    return running.fatal[0]


@pytest.mark.parametrize("at", ["start", "read"])
def test_a_failed_prefill_is_reported_and_fatal(stub: Any, running: RunningShard, at: Any) -> None:
    error = RuntimeError("out of device memory")
    running.engine.fail_next("extend", error, at=at)
    with pytest.raises(grpc.RpcError) as failure:
        stub.Prefill(prefill(0, request(0, "a")))
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "RuntimeError: out of device memory" in failure.value.details()
    assert wait_for_fatal(running) is error


def test_a_failed_decode_is_reported_and_fatal(stub: Any, running: RunningShard) -> None:
    batch = stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9))).batch
    running.engine.fail_next("decode", RuntimeError("the device is gone"))
    with pytest.raises(grpc.RpcError, match="the device is gone"):
        stub.Decode(pb.DecodeRequest(batches=[batch]))
    assert str(wait_for_fatal(running)) == "the device is gone"


def test_a_failed_warm_up_is_reported_and_fatal(
    running: RunningShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(progress: Any) -> None:
        raise MemoryError("no room for the programs")

    monkeypatch.setattr(running.engine, "warm_up", fail)
    with pytest.raises(grpc.RpcError, match="no room for the programs"):
        running.stub(WireVersion.V3).Warmup(warmup_v3(max_prefill_tokens=100))
    assert isinstance(wait_for_fatal(running), MemoryError)


def test_a_broken_engine_fails_both_kinds_of_health_check(
    stub: Any, version: WireVersion, running: RunningShard
) -> None:
    running.engine.break_down("the device does not answer")
    with pytest.raises(grpc.RpcError, match="the device does not answer"):
        stub.Health(pb.HealthRequest())
    with pytest.raises(grpc.RpcError, match="the device does not answer"):
        stub.Prefill(liveness(v3=version is WireVersion.V3))
    wait_for_fatal(running)


def test_filter_and_clear_do_not_fail_even_then(
    stub: Any, running: RunningShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An error status in one of these ends the router's batching for good, while it goes on to look healthy.
    def fail(slot: int) -> None:
        raise RuntimeError("release failed")

    stub.Prefill(prefill(0, request(0, "a", max_new_tokens=9), request(1, "a", max_new_tokens=9)))
    monkeypatch.setattr(running.engine, "release", fail)
    assert not stub.FilterBatch(pb.FilterBatchRequest(batch_id=0, request_ids=[1])).HasField("batch")
    wait_for_fatal(running)
    stub.ClearCache(pb.ClearCacheRequest())


def test_a_router_that_left_while_its_prefill_waited_leaves_no_requests_behind(running: RunningShard) -> None:
    stub = running.stub(WireVersion.V3)
    with running.shard.lock:
        abandoned = stub.Prefill.future(prefill(0, request(0, "a", max_new_tokens=9)))
        time.sleep(0.2)
        abandoned.cancel()
        time.sleep(0.2)
    stub.ClearCache(pb.ClearCacheRequest(id=99))  # waits for its turn
    with running.shard.lock:
        assert running.engine.live_slots == frozenset()


def test_calls_from_many_threads_take_turns(running: RunningShard, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    original = running.shard.generator.prefill

    def counted(*arguments: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        outcome = original(*arguments)
        inside -= 1
        return outcome

    monkeypatch.setattr(running.shard.generator, "prefill", counted)
    stub = running.stub(WireVersion.V3)
    threads = [
        threading.Thread(target=stub.Prefill, args=(prefill(each, request(each, "a", max_new_tokens=1)),))
        for each in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("other", ["FilterBatch", "ClearCache"])
def test_a_batch_is_not_forgotten_in_the_middle_of_its_decode(
    running: RunningShard, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    stub = running.stub(WireVersion.V3)
    batch = stub.Prefill(prefill(0, request(0, "FOREVER", max_new_tokens=50))).batch
    order: list[str] = []
    began = threading.Event()
    decode = running.shard.generator.decode

    def slow(batch_ids: Any) -> Any:
        began.set()
        time.sleep(0.2)
        outcome = decode(batch_ids)
        order.append("Decode")
        return outcome

    monkeypatch.setattr(running.shard.generator, "decode", slow)
    decoding = stub.Decode.future(pb.DecodeRequest(batches=[batch]))
    assert began.wait(5)
    if other == "FilterBatch":
        stub.FilterBatch(pb.FilterBatchRequest(batch_id=0, request_ids=[]))
    else:
        stub.ClearCache(pb.ClearCacheRequest(id=0))
    order.append(other)
    assert len(decoding.result().generations) == 1
    assert order == ["Decode", other]
    assert running.engine.live_slots == frozenset()


def test_after_a_failure_the_health_check_fails(running: RunningShard) -> None:
    stub = running.stub(WireVersion.V3)
    running.engine.fail_next("extend", RuntimeError("out of device memory"))
    with pytest.raises(grpc.RpcError):
        stub.Prefill(prefill(0, request(0, "a")))
    wait_for_fatal(running)
    with pytest.raises(grpc.RpcError, match="out of device memory"):
        stub.Health(pb.HealthRequest())


def test_text_with_lone_surrogates_is_still_sent() -> None:
    assert encodable("a\ud83dz") == "a\ufffdz"
    assert encodable("é😀") == "é😀"
