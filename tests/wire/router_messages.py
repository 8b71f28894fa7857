"""The messages that stock routers send (protocol sections 1.3 to 1.7)."""

from collections.abc import Iterable
from typing import Any

from text_generation_server.pb import messages_pb2 as pb

LIVENESS_ID = 2**64 - 1
IMAGE_BYTES = b"iVBORw0KGgoAAAANSUhEUgAAABQAAAAU"

GREEDY = {
    "temperature": 1.0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
}


def request(
    request_id: int,
    prompt: str,
    *,
    max_new_tokens: int = 3,
    v3: bool = True,
    parameters: dict[str, Any] | None = None,
    stop_sequences: Iterable[str] = (),
    **fields: Any,
) -> pb.Request:
    """One request with the neutral parameters of a router, and what differs from them."""
    message = pb.Request(
        id=request_id,
        inputs=prompt,
        truncate=100,
        parameters=pb.NextTokenChooserParameters(**(GREEDY | (parameters or {}))),
        stopping_parameters=pb.StoppingCriteriaParameters(
            max_new_tokens=max_new_tokens, stop_sequences=stop_sequences
        ),
        **({"add_special_tokens": True, "blocks": [1], "slots": [128, 129, 130]} | fields if v3 else fields),
    )
    if v3:
        message.input_chunks.chunks.add(text=prompt)
    return message


def prefill(batch_id: int, *requests: pb.Request) -> pb.PrefillRequest:
    return pb.PrefillRequest(
        batch=pb.Batch(id=batch_id, requests=requests, size=len(requests), max_tokens=100)
    )


def liveness(*, v3: bool) -> pb.PrefillRequest:
    fields: dict[str, Any] = {"blocks": [0], "slots": [0], "add_special_tokens": False} if v3 else {}
    message = request(LIVENESS_ID, "liveness", max_new_tokens=1, v3=v3, **fields)
    return prefill(LIVENESS_ID, message)


def warmup_v3(
    *,
    max_prefill_tokens: int,
    max_input_tokens: int | None = None,
    max_total_tokens: int | None = None,
    knows_add_special_tokens: bool = True,
) -> pb.WarmupRequest:
    """As routers from 2.4.1 on fill it: duplicate ids, an image first, and lengths that wrap around."""
    requests: list[pb.Request] = []
    left = max_prefill_tokens
    while left > 0:
        truncate = min(max_input_tokens or left, left)
        text = "_test " * truncate
        each = pb.Request(
            id=0,
            inputs=text,
            truncate=truncate,
            parameters=warmup_parameters(),
            stopping_parameters=pb.StoppingCriteriaParameters(
                max_new_tokens=1 if max_total_tokens is None else (max_total_tokens - truncate) % 2**32,
                ignore_eos_token=True,
            ),
            prefill_logprobs=True,
            top_n_tokens=20,
            add_special_tokens=knows_add_special_tokens,
        )
        each.input_chunks.chunks.add(text=text)
        if not requests:
            each.input_chunks.chunks.add(image=pb.Image(data=IMAGE_BYTES, mimetype="image/jpeg;base64"))
        requests.append(each)
        left -= truncate
    message = pb.WarmupRequest(
        batch=pb.Batch(id=0, requests=requests, size=len(requests), max_tokens=max_input_tokens or 0),
        max_prefill_tokens=max_prefill_tokens,
    )
    if max_input_tokens is not None:
        message.max_input_tokens = max_input_tokens
    if max_total_tokens is not None:
        message.max_total_tokens = max_total_tokens
    return message


def warmup_v2(*, max_prefill_tokens: int, max_input_tokens: int, max_total_tokens: int) -> pb.WarmupRequest:
    message = warmup_v3(
        max_prefill_tokens=max_prefill_tokens,
        max_input_tokens=max_input_tokens,
        max_total_tokens=max_total_tokens,
        knows_add_special_tokens=False,
    )
    for each in message.batch.requests:
        each.ClearField("input_chunks")
    message.batch.requests[0].inputs += f"![](data:image/jpeg;base64,{IMAGE_BYTES.decode()})"
    return message


def warmup_parameters() -> pb.NextTokenChooserParameters:
    return pb.NextTokenChooserParameters(
        temperature=0.9,
        top_k=10,
        top_p=0.9,
        typical_p=0.9,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        watermark=True,
    )
