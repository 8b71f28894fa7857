"""What a request may ask for. Order and texts are the stock router's (HTTP reference, 1.3 and 3.1)."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from tpu_tgi.router.errors import ValidationError
from tpu_tgi.router.requests.grammar import Grammar, ShardGrammar, for_shard
from tpu_tgi.router.requests.sampling import check_sampling
from tpu_tgi.router.requests.schemas import GenerateRequest
from tpu_tgi.router.shard.generation import ValidRequest

# The stock router schedules at most this many tokens at a time. Here nothing is cut, but whether a request
# fits is decided, and reported, with the length of its first piece.
FIRST_PIECE = 1024

# How images stand in a prompt, those of a chat too. For models that see, the stock router takes them out; for others it
# leaves the text as it is.
PICTURE = re.compile(r"!\[\]\([^)]*\)")

CountTokens = Callable[[str, bool], Awaitable[int]]


@dataclass(frozen=True)
class ValidationLimits:
    """Lengths in tokens. max_input_tokens is less than max_total_tokens.

    `multimodal`: a picture in a prompt would be meant for the model to see, which none can here.
    """

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    max_total_tokens: int
    disable_grammar_support: bool = False
    multimodal: bool = False


class Validator:
    """Turns request bodies into requests that the shard can serve, or refuses them.

    Args:
        count_tokens: of a text, with or without special tokens.
    """

    def __init__(self, limits: ValidationLimits, count_tokens: CountTokens) -> None:
        self._limits = limits
        self._count_tokens = count_tokens

    def check_best_of(self, best_of: int) -> None:
        """Raises ValidationError; checked before everything else where `best_of` is above 1."""
        limit = self._limits.max_best_of
        if limit == 1 and best_of != 1:
            raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
        if best_of > limit:
            raise ValidationError(f"`best_of` must be > 0 and <= {limit}. Given: {best_of}")

    async def validate(self, body: GenerateRequest) -> ValidRequest:
        """The request with every default filled in, a random seed included. Raises ValidationError."""
        parameters = body.parameters
        sampling = check_sampling(parameters)
        if parameters.max_new_tokens == 0:
            raise ValidationError("`max_new_tokens` must be strictly positive")
        limits = self._limits
        if len(parameters.stop) > limits.max_stop_sequences:
            raise ValidationError(
                f"`stop` supports up to {limits.max_stop_sequences} stop sequences. "
                f"Given: {len(parameters.stop)}"
            )
        if parameters.seed is not None and (parameters.best_of or 1) > 1:
            raise ValidationError("`seed` must not be set when `best_of` > 1")
        if (parameters.top_n_tokens or 0) > limits.max_top_n_tokens:
            raise ValidationError(
                f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. "
                f"Given: {parameters.top_n_tokens}"
            )
        if not body.inputs:
            raise ValidationError("`inputs` cannot be empty")
        if limits.multimodal and PICTURE.search(body.inputs):
            raise ValidationError("`inputs` must be text: this model cannot see. Given: an image")
        if parameters.truncate is not None and not 0 < parameters.truncate <= limits.max_input_tokens:
            raise ValidationError(
                f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. "
                f"Given: {parameters.truncate}"
            )
        input_length, max_new_tokens = await self._check_length(body)
        if parameters.grammar is not None:
            sampling = replace(sampling, grammar=await self._compile(parameters.grammar))
        return ValidRequest(
            inputs=body.inputs,
            input_length=input_length,
            truncate=parameters.truncate or limits.max_input_tokens,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_sequences=tuple(parameters.stop),
            top_n_tokens=parameters.top_n_tokens or 0,
            decoder_input_details=parameters.decoder_input_details,
            add_special_tokens=body.add_special_tokens,
            adapter_id=parameters.adapter_id,
        )

    async def _compile(self, grammar: Grammar) -> ShardGrammar:
        """What the shard is given. Raises ValidationError."""
        if self._limits.disable_grammar_support:
            raise ValidationError("grammar is not supported")
        return await asyncio.to_thread(for_shard, grammar)

    async def _check_length(self, body: GenerateRequest) -> tuple[int, int]:
        """Tokens of the prompt after truncation, and tokens to generate at most."""
        parameters, limits = body.parameters, self._limits
        input_length = await self._count_tokens(body.inputs, body.add_special_tokens)
        if parameters.truncate is not None:
            input_length = min(input_length, parameters.truncate)
        room = max(0, limits.max_total_tokens - input_length)
        wanted = room if parameters.max_new_tokens is None else parameters.max_new_tokens
        first_piece = min(wanted, FIRST_PIECE)
        if input_length + first_piece > limits.max_total_tokens:
            raise ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
                f"Given: {input_length} `inputs` tokens and {first_piece} `max_new_tokens`"
            )
        if input_length > limits.max_input_tokens:
            raise ValidationError(
                f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_length}"
            )
        return input_length, min(wanted, room)
