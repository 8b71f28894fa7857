"""From the router's own types to protobuf messages and back."""

from collections.abc import Iterable

from text_generation_server.pb import messages_pb2 as pb
from tpu_tgi.router.errors import ShardProtocolError
from tpu_tgi.router.requests.sampling import SamplingParameters
from tpu_tgi.router.shard.generation import (
    BatchedRequest,
    CachedBatch,
    GeneratedText,
    Generation,
    NewBatch,
    PromptToken,
    Step,
    Token,
)

GRAMMAR_TYPES = {"json": pb.GRAMMAR_TYPE_JSON, "regex": pb.GRAMMAR_TYPE_REGEX}
FINISH_REASONS = {0: "length", 1: "eos_token", 2: "stop_sequence"}


def text_input(text: str) -> pb.Input:
    """A prompt of one piece of text."""
    return pb.Input(chunks=[pb.InputChunk(text=text)])


def to_batch(batch: NewBatch) -> pb.Batch:
    """A new batch for the shard's Prefill."""
    return pb.Batch(
        id=batch.id,
        requests=[to_request(request) for request in batch.requests],
        size=len(batch.requests),
        max_tokens=batch.max_tokens,
        max_blocks=max(len(request.blocks) for request in batch.requests),
    )


def to_request(batched: BatchedRequest) -> pb.Request:
    """One request; an end-of-sequence token always ends it: no route offers ignore_eos_token."""
    request = batched.request
    message = pb.Request(
        id=batched.id,
        inputs=request.inputs,
        input_chunks=text_input(request.inputs),
        truncate=request.truncate,
        add_special_tokens=request.add_special_tokens,
        prefill_logprobs=request.decoder_input_details,
        top_n_tokens=request.top_n_tokens,
        parameters=to_parameters(request.sampling),
        stopping_parameters=pb.StoppingCriteriaParameters(
            max_new_tokens=request.max_new_tokens,
            stop_sequences=request.stop_sequences,
            ignore_eos_token=False,
        ),
        blocks=batched.blocks,
        slots=batched.slots,
        cache_len=0,
    )
    if request.adapter_id is not None:
        message.adapter_id = request.adapter_id
    if batched.chunk_len is not None:
        message.chunk_len = batched.chunk_len
    return message


def to_parameters(sampling: SamplingParameters) -> pb.NextTokenChooserParameters:
    """How the shard chooses the tokens of a request."""
    grammar = sampling.grammar
    return pb.NextTokenChooserParameters(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        typical_p=sampling.typical_p,
        do_sample=sampling.do_sample,
        seed=sampling.seed,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        watermark=sampling.watermark,
        grammar="" if grammar is None else grammar.text,
        grammar_type=pb.GRAMMAR_TYPE_NONE if grammar is None else GRAMMAR_TYPES[grammar.kind],
    )


def to_cached_batch(batch: CachedBatch) -> pb.CachedBatch:
    """The shard's own description of a batch, sent back to it."""
    return pb.CachedBatch(
        id=batch.id,
        request_ids=batch.request_ids,
        size=batch.size,
        max_tokens=batch.max_tokens,
        current_tokens=batch.current_tokens,
    )


def from_cached_batch(message: pb.CachedBatch) -> CachedBatch:
    return CachedBatch(
        id=message.id,
        request_ids=tuple(message.request_ids),
        size=message.size,
        max_tokens=message.max_tokens,
        current_tokens=message.current_tokens,
    )


def from_step(response: pb.PrefillResponse | pb.DecodeResponse) -> Step:
    """The answer to Prefill or Decode.

    Raises ShardProtocolError for a generation without tokens, an unknown finish reason or no token count.
    """
    return Step(
        generations=tuple(from_generation(generation) for generation in response.generations),
        batch=from_cached_batch(response.batch) if response.HasField("batch") else None,
        forward_seconds=response.forward_ns / 1e9,
        decode_seconds=response.decode_ns / 1e9,
        concat_seconds=response.concat_ns / 1e9 if response.HasField("concat_ns") else None,
    )


def from_generation(message: pb.Generation) -> Generation:
    tokens = tuple(from_tokens(message.tokens))
    if not tokens:
        raise ShardProtocolError(
            f"The shard sent a generation without tokens for request {message.request_id}"
        )
    prefill = None
    if message.HasField("prefill_tokens"):
        prompt = message.prefill_tokens
        prefill = tuple(
            PromptToken(id=token_id, text=text, logprob=logprob)
            for token_id, logprob, text in zip(prompt.ids, prompt.logprobs, prompt.texts, strict=False)
        )
    return Generation(
        request_id=message.request_id,
        tokens=tokens,
        top_tokens=tuple(tuple(from_tokens(top)) for top in message.top_tokens),
        prefill=prefill,
        finished=from_generated_text(message.generated_text) if message.HasField("generated_text") else None,
    )


def from_tokens(message: pb.Tokens) -> Iterable[Token]:
    """The four arrays side by side, as far as the shortest goes (the stock router's rule)."""
    for token_id, logprob, text, special in zip(
        message.ids, message.logprobs, message.texts, message.is_special, strict=False
    ):
        yield Token(id=token_id, text=text, logprob=logprob, special=special)


def from_generated_text(message: pb.GeneratedText) -> GeneratedText:
    if message.finish_reason not in FINISH_REASONS or message.generated_tokens == 0:
        raise ShardProtocolError(
            f"The shard ended a request with finish reason {message.finish_reason} "
            f"after {message.generated_tokens} tokens"
        )
    return GeneratedText(
        text=message.text,
        generated_tokens=message.generated_tokens,
        finish_reason=FINISH_REASONS[message.finish_reason],
        seed=message.seed if message.HasField("seed") else None,
    )
