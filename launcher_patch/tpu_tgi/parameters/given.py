"""The numbers that somebody gave, in the words in which they were given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """A number and where it comes from: an option such as `--max-batch-size`, or a variable such as HF_BATCH_SIZE."""

    source: str
    value: int

    def __str__(self) -> str:
        """As one would write it: `--max-batch-size 4` or `HF_BATCH_SIZE=4`."""
        return f"{self.source}{' ' if self.source.startswith('-') else '='}{self.value}"

    def but(self, value: int) -> "Number":
        """Another value from the same place."""
        return Number(self.source, value)


@dataclass(frozen=True)
class Given:
    """What was given of the numbers that depend on each other; the first four have two names each.

    Attributes:
        batch_size: HF_BATCH_SIZE, --max-batch-size: requests that run at once.
        sequence_length: HF_SEQUENCE_LENGTH, --max-total-tokens: tokens of prompt and answer together.
        max_input_tokens: --max-input-tokens, --max-input-length: tokens of the longest prompt.
        chips: HF_NUM_CHIPS, --num-shard: that share the model.
        max_batch_prefill_tokens: prompt tokens of one prefill.
        max_batch_total_tokens: tokens of all running requests together.
        max_concurrent_requests: requests that run or wait.
    """

    batch_size: tuple[Number, ...] = ()
    sequence_length: tuple[Number, ...] = ()
    max_input_tokens: tuple[Number, ...] = ()
    chips: tuple[Number, ...] = ()
    max_batch_prefill_tokens: Number | None = None
    max_batch_total_tokens: Number | None = None
    max_concurrent_requests: Number | None = None
