"""What a router is told so that it fills every slot and never hands out more of them than there are.

B is the batch size, T the length of a slot. A v3 router hands out blocks, here one block of T tokens for
each slot, and keeps block 0 for its liveness request: it needs a budget of (B+1)*T. A v2 router sums padded
tokens: B*T is exact. (Protocol sections 3.2 and 3.6.)

Speculation needs no room in a slot, but routers add some: with N drafts a v3 router asks for N - 1 tokens more for each
request, so that a block must be as much larger, and a v2 router for N tokens more for each batch.
"""

from dataclasses import dataclass
from enum import IntEnum

from text_generation_server.errors import InvalidSettingError


class WireVersion(IntEnum):
    """Which of the two services a router calls."""

    V2 = 2
    V3 = 3


@dataclass(frozen=True)
class RouterLimits:
    """The answer to a warm-up.

    Attributes:
        max_supported_total_tokens: the router's token budget for all running requests together.
        max_input_tokens: the longest prompt that the router lets through.
        max_total_tokens: the longest prompt and output together, T.
    """

    max_supported_total_tokens: int
    max_input_tokens: int
    max_total_tokens: int


def block_size(max_length: int, drafts: int) -> int:
    """Tokens of a v3 router's block, so that every request takes one."""
    return max_length + max(0, drafts - 1)


def limits_for_router(
    version: WireVersion,
    *,
    batch_size: int,
    max_length: int,
    drafts: int,
    max_input_tokens: int | None,
    max_prefill_tokens: int,
    max_total_tokens: int | None,
) -> RouterLimits:
    """The limits for a router that was started with the last three values; None: it was not told.

    `drafts`: what the router knows as `speculate`.

    Raises InvalidSettingError where the router would otherwise exit without saying why (protocol, 1.5).
    """
    if version is WireVersion.V3:
        budget = (batch_size + 1) * block_size(max_length, drafts)
    else:
        budget = batch_size * max_length + drafts
    if max_total_tokens is not None and max_total_tokens != max_length:
        raise InvalidSettingError(
            f"--max-total-tokens ({max_total_tokens}) must equal the sequence length of the server "
            f"({max_length}). Use --max-total-tokens {max_length}, or HF_SEQUENCE_LENGTH={max_total_tokens}"
        )
    if max_prefill_tokens > budget:
        raise InvalidSettingError(
            f"--max-batch-prefill-tokens ({max_prefill_tokens}) must not exceed {budget}, the tokens that "
            f"the router may have in flight with {batch_size} slots of {max_length}. "
            f"Use --max-batch-prefill-tokens {budget}, or a larger HF_BATCH_SIZE or HF_SEQUENCE_LENGTH"
        )
    if max_input_tokens is None:
        max_input_tokens = min(max_length - 1, max_prefill_tokens)
    if max_input_tokens >= max_length:
        raise InvalidSettingError(
            f"--max-input-tokens ({max_input_tokens}) must be less than the sequence length ({max_length}). "
            f"Use --max-input-tokens {max_length - 1} or less"
        )
    if max_input_tokens > max_prefill_tokens:
        raise InvalidSettingError(
            f"--max-input-tokens ({max_input_tokens}) must not exceed --max-batch-prefill-tokens "
            f"({max_prefill_tokens}). Use --max-input-tokens {max_prefill_tokens} or less, or "
            f"--max-batch-prefill-tokens {max_input_tokens}"
        )
    return RouterLimits(budget, max_input_tokens, max_length)
