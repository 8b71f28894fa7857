"""What passes between validation, queue, batching and the routes, free of HTTP and protobuf."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tpu_tgi.router.requests.sampling import SamplingParameters


@dataclass(frozen=True)
class ValidRequest:
    """A request that passed validation, with every default filled in.

    Attributes:
        inputs: the whole prompt; the shard truncates it.
        input_length: tokens of the prompt after truncation.
        truncate: keep at most this many tokens of the prompt, the last ones.
        max_new_tokens: `input_length + max_new_tokens` is at most the server's max_total_tokens.
        decoder_input_details: ask the shard for the logprobs of the prompt.
    """

    inputs: str
    input_length: int
    truncate: int
    max_new_tokens: int
    sampling: SamplingParameters
    stop_sequences: tuple[str, ...] = ()
    top_n_tokens: int = 0
    decoder_input_details: bool = False
    add_special_tokens: bool = True
    adapter_id: str | None = None


@dataclass(frozen=True)
class BatchedRequest:
    """A valid request on its way to the shard, with the room that it was given there.

    Attributes:
        blocks: ids of the cache blocks that the request owns.
        slots: one cache position for each token that the request may come to hold.
        chunk_len: how much of the prompt to prefill now; only where the shard supports chunking.
    """

    id: int
    request: ValidRequest
    blocks: tuple[int, ...]
    slots: Sequence[int]
    chunk_len: int | None = None


@dataclass(frozen=True)
class NewBatch:
    """Requests that are sent to the shard in one prefill. max_tokens: of all their prompts."""

    id: int
    requests: tuple[BatchedRequest, ...]
    max_tokens: int


@dataclass(frozen=True)
class CachedBatch:
    """The unfinished requests that the shard holds under one id, as the shard told it."""

    id: int
    request_ids: tuple[int, ...]
    size: int
    max_tokens: int
    current_tokens: int


@dataclass(frozen=True)
class PromptToken:
    """One token of the prompt; the first one has no logprob (NaN)."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Token:
    """One generated token, or an alternative to it."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(frozen=True)
class GeneratedText:
    """The end of a generation. finish_reason: `length`, `eos_token` or `stop_sequence`."""

    text: str
    generated_tokens: int
    finish_reason: str
    seed: int | None


@dataclass(frozen=True)
class Generation:
    """What one step yielded for one request; several tokens if the shard speculates.

    Attributes:
        top_tokens: for each token its best alternatives; may be shorter than `tokens`.
        finished: set with the last token of the request.
    """

    request_id: int
    tokens: tuple[Token, ...]
    top_tokens: tuple[tuple[Token, ...], ...] = ()
    prefill: tuple[PromptToken, ...] | None = None
    finished: GeneratedText | None = None


@dataclass(frozen=True)
class Step:
    """The answer to a prefill or a decode; `batch` is None when nothing of it is left to decode.

    Attributes:
        forward_seconds, decode_seconds: in the model, and on choosing tokens and their text.
        concat_seconds: on joining two batches; None if there was nothing to join.
    """

    generations: tuple[Generation, ...]
    batch: CachedBatch | None
    forward_seconds: float
    decode_seconds: float
    concat_seconds: float | None


@dataclass(frozen=True)
class ShardInfo:
    """What the shard says of itself before it is warmed up."""

    requires_padding: bool
    dtype: str
    device_type: str
    speculate: int
    support_chunking: bool
    block_size: int


@dataclass(frozen=True)
class ShardLimits:
    """The shard's answer to warm-up, in tokens. max_supported_total_tokens is None if it does not say."""

    max_supported_total_tokens: int | None
    max_input_tokens: int
    max_total_tokens: int


@dataclass
class GenerationResult:
    """A whole answer. Times are of `time.perf_counter`, in seconds.

    Attributes:
        queued: when the request entered the queue. started: when it was put into a batch.
    """

    input_length: int
    generated: GeneratedText
    queued: float
    started: float
    prefill: list[PromptToken] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] = field(default_factory=list)

    @property
    def mean_logprob(self) -> float:
        """By this the best sequence of `best_of` is chosen."""
        return sum(token.logprob for token in self.tokens) / len(self.tokens)
