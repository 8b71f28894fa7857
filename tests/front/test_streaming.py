"""POST /generate_stream: framing, byte for byte."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator

from front.running_front import RunningFront
from tpu_tgi.router.http.sse import KEEP_ALIVE, with_keep_alive


def raw_post(front: RunningFront, path: str, body: dict[str, object]) -> tuple[bytes, bytes]:
    """Head and undecoded body of an answer, as they came over the wire."""
    payload = json.dumps(body).encode()
    with front.connect() as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (path.encode(), len(payload), payload)
        )
        received = read_all(connection)
    head, _, chunked = received.partition(b"\r\n\r\n")
    return head, chunked


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def chunks(chunked: bytes) -> list[bytes]:
    """The chunks of an HTTP/1.1 body."""
    found = []
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        found.append(rest[:length])
        chunked = rest[length + 2 :]
    return found


def test_a_stream_is_framed_as_by_the_stock_router(front: RunningFront) -> None:
    head, body = raw_post(
        front,
        "/generate_stream",
        {"inputs": "a eos-2", "parameters": {"max_new_tokens": 5, "details": True, "return_full_text": True}},
    )
    assert [piece.decode() for piece in chunks(body)] == [
        'data: {"index":1,"token":{"id":101,"text":" é1","logprob":-0.34,"special":false},'
        '"generated_text":null,"details":null}\n\n',
        'data: {"index":2,"token":{"id":2,"text":"</s>","logprob":-0.68,"special":true},'
        '"generated_text":"a eos-2 é1",'
        '"details":{"finish_reason":"eos_token","generated_tokens":2,"seed":null,"input_length":3}}\n\n',
    ]
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith("http/1.1 200")
    for header in (
        "content-type: text/event-stream",
        "cache-control: no-cache",
        "x-accel-buffering: no",
        "x-compute-type: 1-fake",
        "x-compute-characters: 7",
    ):
        assert lines.count(header) == 1
    assert not any(line.startswith(("x-total-time", "x-compute-time", "server:")) for line in lines)


def test_top_tokens_are_absent_from_events_unless_asked_for(front: RunningFront) -> None:
    _, body = raw_post(
        front, "/generate_stream", {"inputs": "a", "parameters": {"max_new_tokens": 1, "top_n_tokens": 1}}
    )
    (event,) = chunks(body)
    assert b'"top_tokens":[{"id":101,"text":"x","logprob":-0.5,"special":false}]' in event


def test_what_is_refused_on_a_stream_is_one_event_with_status_200(front: RunningFront) -> None:
    refusals = {
        "`best_of` != 1 is not supported when streaming tokens": {"best_of": 2, "temperature": 0},
        "`decoder_input_details` == true is not supported when streaming tokens": {
            "decoder_input_details": True
        },
        "`temperature` must be strictly positive": {"temperature": 0},
    }
    for text, parameters in refusals.items():
        head, body = raw_post(front, "/generate_stream", {"inputs": "a", "parameters": parameters})
        assert head.startswith(b"HTTP/1.1 200")
        assert [piece.decode() for piece in chunks(body)] == [
            f'data: {{"error":"Input validation error: {text}","error_type":"validation"}}\n\n'
        ]


def test_a_failing_shard_ends_a_stream_with_an_error_event(front: RunningFront) -> None:
    _, body = raw_post(front, "/generate_stream", {"inputs": "a fail-decode", "parameters": {}})
    first, error = chunks(body)
    assert b'"index":1' in first
    assert error == (
        b'data: {"error":"Request failed during generation: Server error: asked to fail-decode",'
        b'"error_type":"generation"}\n\n'
    )


def test_a_stream_whose_request_the_shard_forgot_says_so(front: RunningFront) -> None:
    _, body = raw_post(front, "/generate_stream", {"inputs": "a lose", "parameters": {}})
    assert chunks(body)[-1] == (
        b'data: {"error":"Incomplete generation stream","error_type":"incomplete_generation_stream"}\n\n'
    )
    response = front.generate("a lose")
    assert response.status_code == 500
    assert response.text == '{"error":"Incomplete generation","error_type":"incomplete_generation"}'


def test_silence_is_filled_with_comments() -> None:
    async def slow() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await asyncio.sleep(0.25)
        yield b"second"

    async def collect() -> list[bytes]:
        return [piece async for piece in with_keep_alive(slow(), 0.1)]

    assert asyncio.run(collect()) == [b"first", KEEP_ALIVE, KEEP_ALIVE, b"second"]
    assert KEEP_ALIVE == b":\n\n"
