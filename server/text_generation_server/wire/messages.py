"""Messages of the wire <-> requests, generations and batches of ours."""

import re
from collections.abc import Sequence

from text_generation_server.batching.requests import (
    CachedBatch,
    FinishReason,
    GeneratedToken,
    Generation,
    GenerationRequest,
)
from text_generation_server.errors import InvalidRequestError
from text_generation_server.grammar.definition import Grammar, GrammarKind
from text_generation_server.pb import messages_pb2 as pb
from text_generation_server.sampling.parameters import SamplingParameters

FINISH_REASONS = {
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.EOS_TOKEN: pb.FINISH_REASON_EOS_TOKEN,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
}

GRAMMAR_KINDS = {
    pb.GRAMMAR_TYPE_JSON: GrammarKind.JSON_SCHEMA,
    pb.GRAMMAR_TYPE_REGEX: GrammarKind.REGEX,
}


def generation_request(
    message: pb.Request, *, add_special_tokens: bool, scores_prompts: bool
) -> GenerationRequest:
    """One request of the wire. Raises InvalidRequestError for what is malformed or not supported.

    `prefill_logprobs` counts only if the operator allowed it, since /v1/completions always sets it (protocol
    section 4.3).

    Blocks and slots are ignored: the slot table replaces them.
    """
    parameters, stopping = message.parameters, message.stopping_parameters
    return GenerationRequest(
        id=message.id,
        prompt=prompt_of(message),
        max_new_tokens=stopping.max_new_tokens,
        truncate=message.truncate,
        add_special_tokens=add_special_tokens,
        sampling=SamplingParameters(
            temperature=parameters.temperature,
            top_k=parameters.top_k,
            top_p=parameters.top_p,
            typical_p=parameters.typical_p,
            do_sample=parameters.do_sample,
            seed=parameters.seed,
            repetition_penalty=parameters.repetition_penalty,
            frequency_penalty=parameters.frequency_penalty,
            watermark=parameters.watermark,
        ),
        stop_sequences=tuple(stopping.stop_sequences),
        ignore_eos_token=stopping.ignore_eos_token,
        top_n_tokens=message.top_n_tokens,
        prompt_logprobs=message.prefill_logprobs and scores_prompts,
        adapter_id=message.adapter_id if message.HasField("adapter_id") else None,
        grammar=grammar_of(parameters),
    )


def grammar_of(parameters: pb.NextTokenChooserParameters) -> Grammar | None:
    """None without a type or without a text, which routers send for no grammar."""
    if parameters.grammar_type == pb.GRAMMAR_TYPE_NONE or not parameters.grammar:
        return None
    if parameters.grammar_type not in GRAMMAR_KINDS:
        known = ", ".join(pb.GrammarType.Name(number) for number in GRAMMAR_KINDS)
        raise InvalidRequestError(f"`grammar_type` must be one of {known}. Given: {parameters.grammar_type}")
    return Grammar(GRAMMAR_KINDS[parameters.grammar_type], parameters.grammar)


def prompt_of(message: pb.Request) -> str:
    """The text of the chunks, which v3 routers send; `inputs` otherwise."""
    chunks = message.input_chunks.chunks
    for chunk in chunks:
        if chunk.WhichOneof("chunk") != "text":
            raise InvalidRequestError("`inputs` must be text: this model cannot see. Given: an image")
    return "".join(chunk.text for chunk in chunks) if chunks else message.inputs


def generation_message(generation: Generation) -> pb.Generation:
    finished, prompt = generation.finished, generation.prompt
    return pb.Generation(
        request_id=generation.request_id,
        # The router looks at whether the message is there, not at what is in it.
        prefill_tokens=None
        if prompt is None
        else pb.Tokens(
            ids=prompt.token_ids,
            logprobs=prompt.logprobs,
            texts=map(encodable, prompt.texts),
            is_special=[False] * len(prompt.token_ids),
        ),
        tokens=tokens_message(generation.tokens),
        top_tokens=[tokens_message(best) for best in generation.top_tokens],
        generated_text=None
        if finished is None
        else pb.GeneratedText(
            text=encodable(finished.text),
            generated_tokens=finished.generated_tokens,
            finish_reason=FINISH_REASONS[finished.finish_reason],
            seed=finished.seed,
        ),
    )


def tokens_message(tokens: Sequence[GeneratedToken]) -> pb.Tokens:
    return pb.Tokens(
        ids=[token.id for token in tokens],
        logprobs=[token.logprob for token in tokens],
        texts=[encodable(token.text) for token in tokens],
        is_special=[token.is_special for token in tokens],
    )


def batch_message(batch: CachedBatch | None) -> pb.CachedBatch | None:
    if batch is None:
        return None
    rows = len(batch.request_ids)
    return pb.CachedBatch(
        id=batch.id,
        request_ids=batch.request_ids,
        size=rows,
        max_tokens=batch.max_tokens,
        current_tokens=rows,
    )


def encodable(text: str) -> str:
    """Lone surrogates cannot be written as UTF-8, and protobuf raises for them: each becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def refusal_message(request_id: int, text: str, end_token_id: int) -> pb.Generation:
    """A whole answer in one token that the model did not choose.

    The token is not marked as special, because the router's chat routes would leave its text out.
    """
    text = encodable(text)
    return pb.Generation(
        request_id=request_id,
        tokens=pb.Tokens(ids=[end_token_id], logprobs=[0.0], texts=[text], is_special=[False]),
        generated_text=pb.GeneratedText(
            text=text, generated_tokens=1, finish_reason=pb.FINISH_REASON_EOS_TOKEN
        ),
    )
