"""Faults of templates, clients and shards that must stay small."""

import json
import logging
import socket
from pathlib import Path

import pytest

from front.conftest import StartFront
from front.running_front import CHAT, RunningFront, wait_until
from launcher.programs import Outcome, install, start
from tpu_tgi.router import server


@pytest.mark.parametrize(
    ("template", "status"),
    [
        ("{{ messages | tojson(ensure_ascii=False) }}", 200),
        ("{{ messages | tojson(indent=2, separators=(',', ': '), sort_keys=True) }}", 200),
        ("{{ strftime_now(1) }}", 422),
        ("{{ messages | tojson(no_such=1) }}", 422),
    ],
)
def test_an_error_in_a_function_of_a_template_is_a_template_error(
    start_front: StartFront, tmp_path: Path, template: str, status: int
) -> None:
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": template}))
    with start_front(tokenizer_config_path=str(config)) as front:
        response = front.chat("a eos-1")
        assert response.status_code == status
        if status == 422:
            assert response.json()["error_type"] == "template_error"


def test_requests_whose_clients_have_left_leave_the_queue_at_once(start_front: StartFront) -> None:
    with start_front(shard={"batch_size": 1, "hold_at": 0}, max_batch_size=1) as front:
        body = json.dumps({"inputs": "a", "parameters": {"max_new_tokens": 5}})
        head = f"POST /generate HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        connections: list[socket.socket] = []
        for _ in range(6):
            connections.append(front.connect())
            connections[-1].sendall(f"{head}\r\n\r\n{body}".encode())
        wait_until(lambda: "tgi_queue_size 5.0" in front.client.get("/metrics").text)
        for connection in connections[1:]:
            connection.close()
        wait_until(lambda: "tgi_queue_size 0.0" in front.client.get("/metrics").text)
        connections[0].close()
        front.shard.hold_at = None


def test_a_shard_that_does_not_come_back_from_a_call_fails_the_health_check(
    start_front: StartFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANG_SECONDS", 0.3)
    with start_front(shard={"hold_at": 0}) as front:
        assert front.client.get("/health").status_code == 200
        with front.client.stream("POST", CHAT, json={"messages": [], "stream": True}):
            wait_until(lambda: front.client.get("/health").status_code == 503)
            front.shard.hold_at = None
        wait_until(lambda: front.client.get("/health").status_code == 200)


def test_a_compute_type_that_no_header_can_carry_is_refused_at_start(tmp_path: Path) -> None:
    outcome = Outcome(
        start(
            install(tmp_path / "bin", None, None),
            tmp_path,
            "--model-id",
            "a",
            "--dry-run",
            COMPUTE_TYPE="1-é",
        )
    )
    assert outcome.exit_code == 1
    assert "`COMPUTE_TYPE=1-é` must be printable ASCII" in outcome.output


def test_each_request_has_an_id_and_a_line_in_the_log(
    front: RunningFront, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = {"inputs": "a", "parameters": {"max_new_tokens": 2}}
    given = front.client.post("/generate_stream", json=body, headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    made = front.client.post("/generate", json={"inputs": ""}, headers={"x-request-id": "two words"})
    assert len(made.headers["x-request-id"]) == 32
    front.client.get("/health")
    wait_until(lambda: made.headers["x-request-id"] in caplog.text)
    lines = [line for line in caplog.text.splitlines() if "request_log" in line and "/info" not in line]
    assert len(lines) == 2
    assert "mine-1 POST /generate_stream: 200" in lines[0]
    assert "POST /generate: 422" in lines[1]


def test_a_long_head_is_read_however_it_arrives(front: RunningFront) -> None:
    with front.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\ncookie: ")
        for _ in range(70):
            connection.sendall(b"x" * 1000)
        connection.sendall(b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
