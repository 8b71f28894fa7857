"""What the generator asks of an engine: fill a slot with a prompt, piece by piece, advance all slots, release a slot.

The engine owns one static batch of `batch_size` slots of `max_length` tokens. It knows token ids and
sampling parameters; it knows nothing of text, requests or protobuf. The split into prefill / insert /
generate follows JetStream's engine API, with insert folded into prefill because pieces are written
straight into the slot.

A slot is free, then filling, then live, then free again. What it holds stays there while it is free, so that a later
prompt with the same beginning need not compute it again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from text_generation_server.engine.rings import Ring
from text_generation_server.engine.rotary import RotaryLengths
from text_generation_server.sampling.parameters import SamplingParameters


@dataclass(frozen=True)
class EngineInfo:
    """The static shape and what the engine says of itself.

    Attributes:
        batch_size: number of slots.
        max_length: tokens that one slot can hold, prompt and output together.
        vocab_size: number of token ids that the model can produce.
        dtype: of weights and KV cache, for example "bfloat16".
        device_type: for example "xla".
        scores_prompts: `fill` may be asked for the logprobs of a prompt.
        drafts: tokens that `verify` takes for each slot at most; 0: the engine cannot verify.
        steps: that `start_steps` takes at most; 0: the engine takes one at a time.
        adapters: names of the LoRA adapters that a request may choose.
        ring: what some layers keep in place of all positions; None if all layers keep all.
        rotary: how keys depend on the length of their request beside their position; None if they do not.
    """

    batch_size: int
    max_length: int
    vocab_size: int
    dtype: str
    device_type: str
    scores_prompts: bool = False
    adapters: tuple[str, ...] = ()
    rotary: RotaryLengths | None = None
    ring: Ring | None = None
    drafts: int = 0
    steps: int = 0


MAX_RANKED = 20
"""How many of the best tokens an engine ranks for requests that ask for alternatives."""


AllowedTokens = NDArray[np.int32]
"""The tokens that may be chosen in a step, packed: bit i of word w is for token `32 * w + i`.

[batch_size, words]; `words` is ceil(vocab_size / 32). What stands in bits beyond
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
class ChosenToken:
    """One token that was chosen for a slot.

    Attributes:
        logprob: log-softmax of the processed scores at the token.
        ranked: the best tokens in its place, if the slot was filled with `ranked`; else None.
    """

    token_id: int
    logprob: float
    ranked: RankedTokens | None = None


MOST_ENDS = 8
"""Tokens of `Wanted.ends` that an engine looks at."""


@dataclass(frozen=True)
class Wanted:
    """What a request wants of several steps.

    Attributes:
        tokens: at most.
        ends: tokens after which it wants no more. Of many, the device may know some alone.
    """

    tokens: int
    ends: Collection[int] = ()


ChosenTokens = Mapping[int, Sequence[ChosenToken]]
"""The outcome of a step, by slot: for each slot that was live when it was started, the tokens that were chosen for it,
in their order. A step may choose several tokens for a slot, or none: then the slot may be missing."""


class PendingOutput(Protocol):
    """A step that was started and may still be running on the device."""

    def read(self) -> ChosenTokens:
        """Waits for the device and returns the outcome; may be called once.

        RuntimeError if the device fails; the engine is broken then.
        """
        ...


@dataclass(frozen=True)
class Prefix:
    """The beginning of a prompt that a slot holds.

    Attributes:
        slot: which may be free, filling or live, or the slot that is to be filled.
        length: the number of tokens.
    """

    slot: int
    length: int


PromptLogprobs = Mapping[int, Sequence[float]]
"""By slot, the logprobs of those tokens of its prompt that come after the tokens of a piece, in their order."""


class PendingPiece(Protocol):
    """A piece of one or several prompts that is on its way into the cache.

    Attributes:
        held: for each slot whose prompt it has a part of, how many tokens the slot holds when it has run.
        completed: those slots whose prompt is complete with it: they are live.
    """

    @property
    def held(self) -> Mapping[int, int]: ...

    @property
    def completed(self) -> Sequence[int]: ...

    def read(self) -> PromptLogprobs:
        """Waits for the device; may be called once. It has the slots that were filled with `scored` alone.

        RuntimeError if the device fails; the engine is broken then.
        """
        ...


class StartedStep(Protocol):
    """A step in which the model runs, and no token is chosen yet."""

    def choose(self, allowed: AllowedTokens | None = None) -> PendingOutput:
        """Starts the choice; must be called once, and before anything else is asked of the engine.

        Outcomes of programs that were started before may be read meanwhile: masks follow from the tokens before them.
        `allowed` tells what each slot may choose; None allows all. It may be made while the model runs.
        """
        ...


@dataclass(frozen=True)
class WarmupProgress:
    """One line of warm-up progress: program `index` of `count` is ready.

    Attributes:
        origin: "compiled", or "from cache".
    """

    program: str
    index: int
    count: int
    seconds: float
    origin: str = "compiled"


@dataclass(frozen=True)
class EngineStatistics:
    """What an operator wants to see of an engine.

    Attributes:
        compilations_after_warm_up: anything but 0 is a defect.
        programs_compiled, programs_from_cache: before and during warm-up.
        call_seconds: how long the call of the device that is in progress has taken so far; 0 if there is none.
        idle_seconds: the time that the device had nothing to do although a slot was live; an upper bound.
        memory_used, memory_limit: of the device, in bytes; None if it does not tell.
    """

    compilations_after_warm_up: int = 0
    programs_compiled: int = 0
    programs_from_cache: int = 0
    call_seconds: float = 0.0
    idle_seconds: float = 0.0
    memory_used: int | None = None
    memory_limit: int | None = None


class Engine(Protocol):
    """One model. Not thread-safe: the caller serialises all calls but `check_health` and `statistics`."""

    @property
    def info(self) -> EngineInfo: ...

    def warm_up(self, progress: Callable[[WarmupProgress], None]) -> None:
        """Makes every program ready. A second call returns at once. All slots must be free."""
        ...

    def fill(
        self,
        slot: int,
        token_ids: Sequence[int],
        sampling: SamplingParameters,
        *,
        ranked: bool = False,
        scored: bool = False,
        adapter: str | None = None,
        prefix: Prefix | None = None,
    ) -> bool:
        """The slot is to hold this prompt, and is filling from now on. True if it is live at once, with nothing to do.

        Other slots are carried over untouched. `1 <= len(token_ids) < max_length`, else ValueError. RuntimeError if
        the slot is not free or does not exist. With `ranked`, the outcomes have the best tokens as long as this slot
        is live; with `scored`, its pieces have the logprobs of the prompt, RuntimeError unless `info.scores_prompts`.
        `adapter` is one of `info.adapters`, else ValueError, or None for the base model; the slot keeps it.

        `prefix` must be held by its slot for the same adapter and `RotaryLengths.family`, which the caller has to know,
        and its rings must keep `Ring.first_seen`; it is copied. ValueError
        if it is longer than the prompt, or if the prompt is to be scored.
        """
        ...

    def extend(self) -> PendingPiece:
        """Starts one piece of the prompts of filling slots: as much as one program takes, of those filled first.

        A slot whose prompt is complete is live. RuntimeError if no slot is filling.
        """
        ...

    def start_step(self) -> StartedStep:
        """Starts one step for all slots: the model consumes the last token of each live slot.

        The first step of a slot consumes the last token of its prompt, and chooses the first one of its output. Slots
        that are filling take no part.

        Pieces and steps run in the order in which they were started, so a step may be started before the one before it
        was read. A slot that is full must have been released, but a step that was started ahead of the end of its
        owner may run past it: its token means nothing. RuntimeError if no slot is live.
        """
        ...

    def verify(
        self, drafts: Mapping[int, Sequence[int]], allowed: Sequence[AllowedTokens] = ()
    ) -> PendingOutput:
        """Starts one step for all slots that goes on, for each slot, as long as it chooses the slot's drafts.

        Args:
            drafts: by slot, what may be chosen next; up to `info.drafts` tokens, and none for slots that are left out.
            allowed: what each slot may choose after its last token, after its first draft, and so on; places that are
                left out allow all.

        Each slot gets the tokens that as many plain steps would have chosen: those of its drafts that are chosen, and
        one more. Whatever the drafts are, none of these tokens changes.

        RuntimeError if no slot is live, or if a slot with drafts is not. ValueError if a slot has more drafts than the
        engine takes, or than it has room for with one token after them.
        """
        ...

    def start_steps(self, count: int, wanted: Mapping[int, Wanted]) -> PendingOutput:
        """Starts up to `count` steps for all slots that run without the host: as many as it takes until no slot wants
        any more.

        Args:
            wanted: by slot, what its request wants; nothing for slots that are left out.

        Each slot gets the tokens that as many plain steps would have chosen, those behind its end too, which mean
        nothing once it is full.

        RuntimeError if no slot is live, or if `can_start_steps` is False. ValueError unless `count` is from 1 to
        `info.steps`.
        """
        ...

    def can_start_steps(self) -> bool:
        """Whether the engine has a program for what its live slots ask for: not for alternatives, typical-p and
        watermarks."""
        ...

    def release(self, slot: int) -> None:
        """The slot is free, and what it holds stays there. A slot that is free already is left alone."""
        ...

    def check_health(self) -> None:
        """Raises RuntimeError if the engine is broken or does not come back. Cheap, and safe from any thread."""
        ...

    def statistics(self) -> EngineStatistics:
        """Cheap, and safe to call from any thread."""
        ...
