"""Many requests at once, clients that leave, and a shard that fails."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from front.conftest import StartFront
from front.running_front import RunningFront, wait_until

CHUNKING = pytest.mark.parametrize("chunking", [False, True], ids=["without chunking", "with chunking"])


def stream(front: RunningFront, inputs: str, **parameters: Any) -> list[dict[str, Any]]:
    """The events of one streamed request, on a connection of its own."""
    body = {"inputs": inputs, "parameters": parameters}
    response = httpx.post(f"http://127.0.0.1:{front.port}/generate_stream", json=body, timeout=20)
    return [json.loads(line[len("data: ") :]) for line in response.text.split("\n\n") if line]


@CHUNKING
def test_eight_clients_on_a_batch_of_four_are_all_served(start_front: StartFront, chunking: bool) -> None:
    with (
        start_front(shard={"step_seconds": 0.02, "support_chunking": chunking}) as front,
        ThreadPoolExecutor(8) as clients,
    ):
        lengths = [15, 19, 13, 22, 17, 30, 11, 18]
        runs = [clients.submit(stream, front, f"client {n}", max_new_tokens=n) for n in lengths]
        for length, run in zip(lengths, runs, strict=True):
            events = run.result()
            assert [event["index"] for event in events] == list(range(1, length + 1))
            assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)
        assert front.shard.largest_batch == 4
        wait_until(lambda: front.shard.is_empty)


@CHUNKING
def test_a_hundred_requests_that_join_and_leave_at_random_are_all_answered(
    start_front: StartFront, chunking: bool
) -> None:
    with (
        start_front(shard={"support_chunking": chunking, "step_seconds": 0.0005}) as front,
        ThreadPoolExecutor(12) as clients,
    ):
        lengths = [1 + (7 * n) % 23 for n in range(100)]
        answers = list(clients.map(lambda n: front.generate("word", max_new_tokens=n, details=True), lengths))
        for length, answer in zip(lengths, answers, strict=True):
            assert answer.json()["details"]["generated_tokens"] == length
        assert front.shard.largest_batch == 4
        assert front.shard.is_empty


def test_a_request_is_admitted_at_the_step_after_it_arrived(start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.02}) as front, ThreadPoolExecutor(2) as clients:
        long = clients.submit(stream, front, "long", max_new_tokens=40)
        wait_until(lambda: front.shard.count("Decode") >= 3)
        begin = front.shard.count("Decode")
        assert len(stream(front, "short", max_new_tokens=1)) == 1
        assert front.shard.count("Decode") - begin <= 3
        assert len(long.result()) == 40


def test_a_smaller_max_batch_size_holds_requests_back(start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.002}, max_batch_size=2) as front,
        ThreadPoolExecutor(6) as clients,
    ):
        runs = [clients.submit(stream, front, "a", max_new_tokens=10) for _ in range(6)]
        assert [len(run.result()) for run in runs] == [10] * 6
        assert front.shard.largest_batch == 2


def test_a_prefill_takes_no_more_prompt_tokens_than_its_budget(start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.05}, max_batch_prefill_tokens=64, max_total_tokens=64) as front,
        ThreadPoolExecutor(4) as clients,
    ):
        first = clients.submit(stream, front, "first", max_new_tokens=10)
        wait_until(lambda: front.shard.count("Prefill") == 1)
        prompt = " ".join(["word"] * 39)
        runs = [clients.submit(stream, front, prompt, max_new_tokens=2) for _ in range(3)]
        assert [len(run.result()) for run in (first, *runs)] == [10, 2, 2, 2]
        prefills = [ids for name, ids in front.shard.calls if name == "Prefill"]
        assert [len(ids) for ids in prefills] == [1, 1, 1, 1]


def test_one_request_makes_the_calls_of_the_stock_router(start_front: StartFront) -> None:
    with start_front() as front:
        front.generate("a", max_new_tokens=3)
        assert front.shard.calls == [
            ("ServiceDiscovery", None),
            ("ClearCache", None),
            ("Info", None),
            ("Warmup", None),
            ("Prefill", [0]),
            ("Decode", [0]),
            ("Decode", [0]),
        ]


def test_a_finished_request_is_filtered_out_and_the_others_go_on(start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.02}) as front, ThreadPoolExecutor(2) as clients:
        long = clients.submit(stream, front, "a", max_new_tokens=20)
        wait_until(lambda: front.shard.count("Decode") >= 2)
        stream(front, "b", max_new_tokens=3)
        assert len(long.result()) == 20
        assert [what for name, what in front.shard.calls if name == "FilterBatch"] == [(0, [0])]
        assert ("Decode", [0, 1]) in front.shard.calls


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_a_client_that_leaves_frees_its_slot(start_front: StartFront, path: str) -> None:
    with (
        start_front(shard={"step_seconds": 0.01, "max_length": 5000}) as front,
        ThreadPoolExecutor(1) as clients,
    ):
        other = clients.submit(stream, front, "stays", max_new_tokens=60)
        wait_until(lambda: front.shard.count("Prefill") == 1)
        body = json.dumps({"inputs": "leaves", "parameters": {"max_new_tokens": 4000}}).encode()
        with front.connect() as connection:
            connection.sendall(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
            )
            wait_until(lambda: front.shard.count("Prefill") == 2)
            time.sleep(0.05)
        wait_until(lambda: front.shard.count("FilterBatch") == 1)
        assert front.shard.calls[[name for name, _ in front.shard.calls].index("FilterBatch")][1] == (0, [0])
        assert len(other.result()) == 60


def test_the_last_client_that_leaves_has_its_batch_cleared(start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.01, "max_length": 5000}, max_concurrent_requests=1) as front:
        with httpx.stream(
            "POST", f"http://127.0.0.1:{front.port}/generate_stream", json={"inputs": "a", "parameters": {}}
        ) as response:
            next(response.iter_raw())
        wait_until(lambda: ("ClearCache", 0) in front.shard.calls)
        assert front.shard.is_empty
        # Its permit is free as well.
        assert front.generate("next", max_new_tokens=1).status_code == 200


def test_a_client_that_leaves_while_it_waits_is_never_sent_to_the_shard(start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.02, "batch_size": 1}) as front,
        ThreadPoolExecutor(1) as clients,
    ):
        running = clients.submit(stream, front, "runs", max_new_tokens=20)
        wait_until(lambda: front.shard.count("Prefill") == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"http://127.0.0.1:{front.port}/generate",
                json={"inputs": "impatient", "parameters": {"max_new_tokens": 1}},
                timeout=0.1,
            )
        assert len(running.result()) == 20
        front.generate("last", max_new_tokens=1)
        assert [r.inputs for r in front.shard.requests] == ["runs", "last"]


def test_one_request_too_many_is_429(start_front: StartFront) -> None:
    with (
        start_front(shard={"step_seconds": 0.02}, max_concurrent_requests=2) as front,
        ThreadPoolExecutor(2) as clients,
    ):
        runs = [clients.submit(stream, front, "a", max_new_tokens=20) for _ in range(2)]
        wait_until(lambda: len(front.shard.requests) == 2)
        refused = front.generate("b")
        assert refused.status_code == 429
        assert refused.text == '{"error":"Model is overloaded","error_type":"overloaded"}'
        assert stream(front, "c") == [{"error": "Model is overloaded", "error_type": "overloaded"}]
        assert front.client.get("/health").status_code == 200
        assert [len(run.result()) for run in runs] == [20, 20]
        assert front.generate("d", max_new_tokens=1).status_code == 200


@CHUNKING
def test_a_failed_decode_fails_its_batch_with_424_and_the_next_request_is_served(
    start_front: StartFront, chunking: bool
) -> None:
    with (
        start_front(shard={"step_seconds": 0.02, "support_chunking": chunking}) as front,
        ThreadPoolExecutor(2) as clients,
    ):
        bystander = clients.submit(front.generate, "bystander", max_new_tokens=30)
        wait_until(lambda: front.shard.count("Decode") >= 2)
        failed = front.generate("fail-decode")
        assert failed.status_code == 424
        assert failed.json() == {
            "error": "Request failed during generation: Server error: asked to fail-decode",
            "error_type": "generation",
        }
        assert bystander.result().status_code == 424
        cleared = [what for name, what in front.shard.calls if name == "ClearCache"]
        assert cleared == [None, 0] if chunking else cleared == [None, 0, 1]
        assert front.generate("next", max_new_tokens=2).status_code == 200


def test_a_failed_prefill_leaves_the_running_batch_alone(start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.02}) as front, ThreadPoolExecutor(1) as clients:
        running = clients.submit(stream, front, "runs", max_new_tokens=15)
        wait_until(lambda: front.shard.count("Decode") >= 2)
        assert front.generate("fail-prefill").status_code == 424
        assert ("ClearCache", 1) in front.shard.calls
        assert len(running.result()) == 15


def test_after_a_failure_health_is_decided_by_a_real_prefill(start_front: StartFront) -> None:
    with start_front() as front:
        assert front.client.get("/health").status_code == 200
        assert front.generate("fail-prefill").status_code == 424
        front.shard.broken = True
        for _ in range(2):
            unhealthy = front.client.get("/health")
            assert unhealthy.status_code == 503
            assert unhealthy.text == '{"error":"unhealthy","error_type":"healthcheck"}'
        front.shard.broken = False
        assert front.client.get("/health").status_code == 200
        assert front.client.get("/health").status_code == 200
        assert [name for name, _ in front.shard.calls if name in ("Health", "Liveness")] == [
            "Health", "Liveness", "Liveness", "Liveness", "Health",
        ]  # fmt: skip


def test_a_shard_that_dies_in_the_middle_of_a_stream_ends_it_with_an_error_event(
    start_front: StartFront,
) -> None:
    with start_front(shard={"step_seconds": 0.02}) as front, ThreadPoolExecutor(1) as clients:
        running = clients.submit(stream, front, "a", max_new_tokens=50)
        wait_until(lambda: front.shard.count("Decode") >= 2)
        front.in_loop(front.shard.stop())
        *_, last = running.result()
        assert last["error_type"] == "generation"
        assert last["error"].startswith("Request failed during generation: Server error: ")
        assert front.client.get("/health").status_code == 503


def test_a_stopping_router_answers_what_runs_and_accepts_nothing_new(start_front: StartFront) -> None:
    with start_front(shard={"step_seconds": 0.02}) as front, ThreadPoolExecutor(1) as clients:
        running = clients.submit(stream, front, "a", max_new_tokens=30)
        wait_until(lambda: front.shard.count("Decode") >= 2)
        front.loop.call_soon_threadsafe(front.router.stop, 10.0)
        refused = threading.Event()

        def is_refused() -> bool:
            try:
                httpx.get(f"http://127.0.0.1:{front.port}/info", timeout=1)
            except httpx.ConnectError:
                refused.set()
            return refused.is_set()

        wait_until(is_refused)
        assert len(running.result()) == 30
