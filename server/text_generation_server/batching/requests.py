"""What comes in and goes out of the generator: requests, generations and batches, free of protobuf."""

from dataclasses import dataclass, field
from enum import Enum

from text_generation_server.grammar.definition import Grammar
from text_generation_server.sampling.parameters import SamplingParameters


@dataclass(frozen=True)
class GenerationRequest:
    """One request as the router sends it.

    Attributes:
        id: the router's id, unique among the requests that it has not forgotten.
        prompt: text; special tokens are added to it if `add_special_tokens`.
        truncate: keep at most this many tokens of the prompt, the last ones; special tokens count, and
            a leading BOS is kept. 0 means no truncation.
        max_new_tokens: upper bound on generated tokens, at least 1.
        stop_sequences: generation ends when the output contains one of them; none may be empty.
        ignore_eos_token: generate on after an end-of-sequence token (benchmarks).
        top_n_tokens: with each token, report that many of the best ones, and all that tie with the last of them.
        prompt_logprobs: report the logprobs of the prompt's tokens.
        adapter_id: name of a LoRA adapter. Any other name means the base model, since OpenAI clients put the model's
            name there (protocol section 4.5).
        grammar: what the whole output must match. It ends with an end-of-sequence token where the grammar allows no
            more, even if `ignore_eos_token`.
    """

    id: int
    prompt: str
    max_new_tokens: int
    truncate: int = 0
    add_special_tokens: bool = True
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stop_sequences: tuple[str, ...] = ()
    ignore_eos_token: bool = False
    top_n_tokens: int = 0
    prompt_logprobs: bool = False
    adapter_id: str | None = None
    grammar: Grammar | None = None


class FinishReason(Enum):
    """Why a generation ended."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True)
class GeneratedToken:
    """One token of the output.

    Attributes:
        text: what this token adds to the text that was streamed before; "" while a character is incomplete.
        is_special: the token is not part of the final text (EOS and the like).
    """

    id: int
    logprob: float
    text: str
    is_special: bool


@dataclass(frozen=True)
class GeneratedText:
    """The end of a generation.

    Attributes:
        text: the new text only, without special tokens; a matched stop sequence is its end.
        generated_tokens: at least 1, EOS included.
        seed: the request's seed if it sampled, else None.
    """

    text: str
    generated_tokens: int
    finish_reason: FinishReason
    seed: int | None


@dataclass(frozen=True)
class PromptTokens:
    """The prompt as the model saw it.

    Attributes:
        token_ids, logprobs, texts: of equal length. The first logprob is NaN: nothing comes before it.
    """

    token_ids: list[int]
    logprobs: list[float]
    texts: list[str]


@dataclass(frozen=True)
class Generation:
    """The tokens of one request that no answer had yet.

    Attributes:
        tokens: at least one, oldest first.
        finished: set with the last token.
        top_tokens: for each of `tokens` the best ones in its place, best first, if the request asked for them; else
            empty.
        prompt: comes with the first token, if the request asked for it.
        drafted, accepted: with the last token, how many drafts of the request were verified and chosen.
    """

    request_id: int
    tokens: tuple[GeneratedToken, ...]
    finished: GeneratedText | None = None
    top_tokens: tuple[tuple[GeneratedToken, ...], ...] = ()
    prompt: PromptTokens | None = None
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class CachedBatch:
    """The unfinished requests that the generator holds under one batch id.

    Attributes:
        max_tokens: slots in use times max_length; what the router subtracts from its token budget.
    """

    id: int
    request_ids: list[int]
    max_tokens: int


@dataclass(frozen=True)
class Timings:
    """Nanoseconds spent in one prefill or decode.

    Attributes:
        forward_ns: waiting for the device. decode_ns: text and stopping on the host. total_ns: all of it.
    """

    forward_ns: int
    decode_ns: int
    total_ns: int


@dataclass(frozen=True)
class BatchOutcome:
    """What prefill and decode return.

    Attributes:
        batch: None when no request of it is unfinished.
        failures: by request id, why a request cannot be served (any more). It is forgotten, and has no generation.
    """

    generations: list[Generation]
    batch: CachedBatch | None
    timings: Timings
    failures: dict[int, str]
