"""The limits that router and shard agree on at start, or why they cannot."""

from dataclasses import dataclass

from tpu_tgi.parameters.derivation import concurrent_requests
from tpu_tgi.router.errors import RouterStartError
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.router.shard.generation import ShardInfo, ShardLimits

# What the stock router assumes of a shard that does not say how much it holds.
ASSUMED_TOTAL_TOKENS = 16_000


@dataclass(frozen=True)
class ServingLimits:
    """In tokens, but for the last; the batch limits are those of one prefill and of all that the shard holds.

    Attributes:
        slots: requests that run at once.
        max_concurrent_requests: requests that run or wait.
    """

    max_input_tokens: int
    max_total_tokens: int
    max_batch_prefill_tokens: int
    max_batch_total_tokens: int
    slots: int
    max_concurrent_requests: int

    def __str__(self) -> str:
        return (
            f"{self.max_input_tokens} tokens of prompt, {self.max_total_tokens} of prompt and answer, "
            f"{self.max_batch_prefill_tokens} of a prefill; {self.slots} requests at once, "
            f"{self.max_concurrent_requests} with those that wait"
        )


def prefill_tokens(settings: RouterSettings, info: ShardInfo) -> int:
    """Prompt tokens of one prefill: as given, else enough for one prompt of any length.

    A shard with static slots reports the length of a slot as its block size. Raises RouterStartError for a
    shard that this router cannot serve at all.
    """
    if info.requires_padding or info.block_size == 0:
        raise RouterStartError(
            "The embedded router serves shards that hand out cache blocks; this one reports "
            f"requires_padding={info.requires_padding} and block_size={info.block_size}"
        )
    return settings.max_batch_prefill_tokens or settings.max_total_tokens or info.block_size


def agree(settings: RouterSettings, info: ShardInfo, shard: ShardLimits) -> ServingLimits:
    """The checks of the stock router after warm-up (protocol section 1.5). Raises RouterStartError."""
    for name, given, answered in (
        ("max-input-tokens", settings.max_input_tokens, shard.max_input_tokens),
        ("max-total-tokens", settings.max_total_tokens, shard.max_total_tokens),
    ):
        if given is not None and given != answered:
            raise RouterStartError(f"`--{name} {given}` does not fit the shard, which allows {answered}")
    prefill = prefill_tokens(settings, info)
    supported = shard.max_supported_total_tokens
    total = max(ASSUMED_TOTAL_TOKENS, shard.max_total_tokens, prefill) if supported is None else supported
    # One of the blocks is never handed out.
    slots = settings.max_batch_size or max(1, total // info.block_size - 1)
    # 0 is a number too: no request at all.
    concurrent = settings.max_concurrent_requests
    limits = ServingLimits(
        shard.max_input_tokens,
        shard.max_total_tokens,
        prefill,
        total,
        slots,
        concurrent_requests(slots) if concurrent is None else concurrent,
    )
    if limits.max_input_tokens >= limits.max_total_tokens:
        raise RouterStartError(
            f"`--max-input-tokens {limits.max_input_tokens}` must be < "
            f"`--max-total-tokens {limits.max_total_tokens}`"
        )
    if limits.max_input_tokens > prefill and not info.support_chunking:
        raise RouterStartError(
            f"`--max-batch-prefill-tokens {prefill}` must be >= {limits.max_input_tokens}, the longest prompt"
        )
    if prefill > total:
        raise RouterStartError(
            f"`--max-batch-prefill-tokens {prefill}` must be <= {total}, the tokens that the shard can hold"
        )
    if limits.max_total_tokens > total or total // info.block_size < 2:
        raise RouterStartError(
            f"The shard holds {total} tokens, too few for one request of {limits.max_total_tokens}: "
            "a smaller `--max-total-tokens` would work"
        )
    return limits
