"""The warm-up request, built as the stock router builds it (protocol section 1.4)."""

import base64

from text_generation_server.pb import messages_pb2 as pb

# A PNG of one pixel. The stock router sends a picture with the first request whatever the model is,
# so every shard must be ready to meet one.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
PICTURE_TYPE = "image/jpeg;base64"


def warmup_request(
    max_input_tokens: int | None,
    max_prefill_tokens: int,
    max_total_tokens: int | None,
    max_batch_size: int | None,
) -> pb.WarmupRequest:
    """Prompts that together hold `max_prefill_tokens` tokens, at most `max_batch_size` of them.

    A limit that is None was not given; the shard then chooses it.
    """
    requests: list[pb.Request] = []
    tokens = 0
    while tokens < max_prefill_tokens and len(requests) != max_batch_size:
        truncate = max_prefill_tokens - tokens
        if max_input_tokens is not None:
            truncate = min(max_input_tokens, truncate)
        requests.append(_request(truncate, max_total_tokens, with_picture=not requests))
        tokens += truncate
    return pb.WarmupRequest(
        batch=pb.Batch(
            id=0, requests=requests, size=len(requests), max_tokens=max_input_tokens or 0, max_blocks=0
        ),
        max_input_tokens=max_input_tokens,
        max_prefill_tokens=max_prefill_tokens,
        max_total_tokens=max_total_tokens,
    )


def _request(truncate: int, max_total_tokens: int | None, with_picture: bool) -> pb.Request:
    text = "_test " * truncate
    chunks = [pb.InputChunk(text=text)]
    if with_picture:
        chunks.append(pb.InputChunk(image=pb.Image(data=PICTURE, mimetype=PICTURE_TYPE)))
        text += f"![](data:{PICTURE_TYPE},{base64.b64encode(PICTURE).decode()})"
    # The stock router subtracts without a sign: a prompt longer than the total wraps around.
    max_new_tokens = 1 if max_total_tokens is None else (max_total_tokens - truncate) % 2**32
    return pb.Request(
        id=0,
        inputs=text,
        input_chunks=pb.Input(chunks=chunks),
        truncate=truncate,
        add_special_tokens=True,
        prefill_logprobs=True,
        top_n_tokens=20,
        parameters=pb.NextTokenChooserParameters(
            temperature=0.9,
            top_k=10,
            top_p=0.9,
            typical_p=0.9,
            do_sample=False,
            seed=0,
            repetition_penalty=1.2,
            frequency_penalty=0.1,
            watermark=True,
        ),
        stopping_parameters=pb.StoppingCriteriaParameters(
            max_new_tokens=max_new_tokens, ignore_eos_token=True
        ),
    )
