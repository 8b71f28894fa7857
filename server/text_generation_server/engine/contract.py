"""What the generator asks of an engine: prefill a slot, decode all slots, release a slot.

The engine owns one static batch of `batch_size` slots of `max_length` tokens. It knows token ids and
sampling parameters; it knows nothing of text, requests or protobuf. The split into prefill / insert /
generate follows JetStream's engine API, with insert folded into prefill because the prefill program
writes straight into the slot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from text_generation_server.sampling.parameters import SamplingParameters


@dataclass(frozen=True)
class EngineLimits:
    """The static shape and what the engine says of itself.

    Attributes:
        batch_size: number of slots.
        max_length: tokens that one slot can hold, prompt and output together.
        vocab_size: number of token ids that the model can produce.
        dtype: of weights and KV cache, for example "bfloat16".
        device_type: for example "xla".
        scores_prompts: `score_prompt` may be called.
        adapters: names of the LoRA adapters that a request may choose.
    """

    batch_size: int
    max_length: int
    vocab_size: int
    dtype: str
    device_type: str
    scores_prompts: bool = False
    adapters: tuple[str, ...] = ()


MAX_RANKED = 20
"""How many of the best tokens an engine ranks for requests that ask for alternatives."""


AllowedTokens = NDArray[np.int32]
"""The tokens that may be chosen, packed: bit i of word w is for token `32 * w + i`.

[words] for a prefill, [batch_size, words] for a decode; `words` is ceil(vocab_size / 32). What stands in bits beyond
the vocabulary means nothing. At least one token of each live slot must be allowed.
"""


@dataclass(frozen=True)
class RankedTokens:
    """The best tokens by processed scores, best first; at most MAX_RANKED, without filtered tokens.

    Attributes:
        token_ids, logprobs: of equal length.
    """

    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class ChosenTokens:
    """The outcome of one program.

    After a prefill both lists have one entry, for the slot that was filled. After a decode they have
    `batch_size` entries, indexed by slot; entries of slots that are not live mean nothing.

    Attributes:
        token_ids: the chosen tokens.
        logprobs: log-softmax of the processed scores at the chosen token.
        ranked: the best tokens of each row, if a live slot asked for them; else None.
    """

    token_ids: list[int]
    logprobs: list[float]
    ranked: list[RankedTokens] | None = None


class PendingTokens(Protocol):
    """A program that was started and may still be running on the device."""

    def read(self) -> ChosenTokens:
        """Waits for the program and returns its outcome; may be called once."""
        ...


@dataclass(frozen=True)
class WarmupStep:
    """One line of warm-up progress: program `index` of `count` was compiled and run once."""

    program: str
    index: int
    count: int
    seconds: float


class Engine(Protocol):
    """One model on one device. Not thread-safe: the caller serialises all calls but `check_health`."""

    @property
    def limits(self) -> EngineLimits: ...

    def warm_up(self, progress: Callable[[WarmupStep], None]) -> None:
        """Compiles and runs every program, largest first. A second call returns at once."""
        ...

    def prefill(
        self,
        slot: int,
        token_ids: Sequence[int],
        sampling: SamplingParameters,
        ranked: bool = False,
        adapter: str | None = None,
        allowed: AllowedTokens | None = None,
    ) -> PendingTokens:
        """Starts the program that fills `slot` with a prompt and chooses the first token; the slot is now live.

        Other slots are carried over untouched. `1 <= len(token_ids) < max_length`, else ValueError. With
        `ranked`, the outcomes have the best tokens as long as this slot is live. `adapter` is one of
        `limits.adapters`, else ValueError, or None for the base model; the slot keeps it. The first token is one of
        `allowed`; None allows all.
        Returns one chosen token.
        """
        ...

    def decode(self, allowed: Callable[[], AllowedTokens] | None = None) -> PendingTokens:
        """Starts one step for all slots: each live slot consumes its last token and chooses the next one.

        `allowed` tells what each slot may choose; None allows all. It is called once the model runs, so that the host
        finds out meanwhile.

        Steps run in the order in which they were started, so a step may be started before the one
        before it was read. RuntimeError if no slot is live.
        """
        ...

    def score_prompt(self, token_ids: Sequence[int], adapter: str | None = None) -> list[float]:
        """The logprob of each token of a prompt but the first, given those before it; waits for the device.

        `adapter` as in `prefill`. RuntimeError unless `limits.scores_prompts`.
        """
        ...

    def release(self, slot: int) -> None:
        """The slot is no longer live. Nothing runs on the device. A slot that is not live is left alone."""
        ...

    def check_health(self) -> None:
        """Raises RuntimeError if the engine is broken. Cheap, and safe to call from any thread."""
        ...
