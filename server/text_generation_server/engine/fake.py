"""An engine without a model: each next token is a function of the slot's tokens so far.

It serves tests of everything above the engine. It keeps the contract strictly, so that a caller who
breaks it learns so here and not on a device.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from text_generation_server.engine.contract import (
    MAX_RANKED,
    AllowedTokens,
    ChosenToken,
    ChosenTokens,
    EngineInfo,
    EngineStatistics,
    RankedTokens,
    WarmupProgress,
)
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import SamplingParameters

Program = Literal["prefill", "decode"]

MEANINGLESS_TOKEN = -1
"""What a step chooses for a slot that is full: no token id, so that using it is noticed."""


@dataclass(frozen=True)
class PrefillCall:
    """The arguments of one prefill."""

    slot: int
    token_ids: tuple[int, ...]
    sampling: SamplingParameters
    ranked: bool
    adapter: str | None = None


class FakePendingOutput:
    """An outcome that was computed when its program was started, or the error that reading it raises."""

    def __init__(self, engine: "FakeEngine", name: str, error: Exception | None) -> None:
        self.chosen: ChosenTokens = {}
        self.was_read = False
        self._engine = engine
        self._name = name
        self._error = error

    def read(self) -> ChosenTokens:
        if self.was_read:
            raise RuntimeError("The outcome of a program may be read once; it was read before.")
        self.was_read = True
        self._engine.calls["read"] += 1
        self._engine.timeline.append(f"read {self._name}")
        if self._error is not None:
            raise self._error
        return self.chosen


class FakeStartedStep:
    """A step that has yet to choose."""

    def __init__(self, choose: Callable[[AllowedTokens | None], FakePendingOutput]) -> None:
        self._choose = choose
        self._has_chosen = False

    def choose(self, allowed: AllowedTokens | None = None) -> FakePendingOutput:
        """RuntimeError if it has chosen before, or if the masks have a wrong shape or allow nothing."""
        if self._has_chosen:
            raise RuntimeError("A step chooses once; this one has chosen before.")
        self._has_chosen = True
        return self._choose(allowed)


class FakeEngine:
    """A deterministic engine in plain Python.

    Attributes:
        calls: how often each method was called; "decode" counts the steps that were started, "masked decode" those
            in which not all tokens were allowed, "read" the outcomes that were read.
        prefills: the arguments of all prefills, oldest first.
        timeline: what was asked of the engine, oldest first: "prefill 0" (the slot), "start 1", "choose 1",
            "read 1" (the number of the step), "read prefill 0".
    """

    def __init__(
        self,
        *,
        next_token: Callable[[Sequence[int]], int] | None = None,
        batch_size: int = 4,
        max_length: int = 128,
        vocab_size: int = 256,
        scores_prompts: bool = False,
        adapters: tuple[str, ...] = (),
        tokens_per_step: int = 1,
    ) -> None:
        """`next_token` maps prompt and output so far to the next token id; by default a checksum of them.

        With the first adapter a slot gets the successor of that token in the vocabulary, with the second the
        successor of that one, and so on. A step without masks chooses `tokens_per_step` for each slot.
        """
        self._info = EngineInfo(
            batch_size, max_length, vocab_size, "float32", "fake", scores_prompts, adapters
        )
        self._next_token = next_token or self._checksum
        self._tokens_per_step = tokens_per_step
        self._histories: dict[int, list[int]] = {}
        self._filled_by: dict[int, FakePendingOutput] = {}
        self._ranked: set[int] = set()
        self._shifts: dict[int, int] = {}
        self._failures: dict[tuple[Program, str], Exception] = {}
        self._broken: str | None = None
        self._is_warm = False
        self._is_choosing = False
        self.calls: Counter[str] = Counter()
        self.prefills: list[PrefillCall] = []
        self.timeline: list[str] = []

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def live_slots(self) -> frozenset[int]:
        return frozenset(self._histories)

    def fail_next(self, program: Program, error: Exception, at: Literal["start", "read"] = "start") -> None:
        """The next start of `program` raises `error`, or gives an outcome that raises it when it is read."""
        self._failures[program, at] = error

    def break_down(self, reason: str) -> None:
        """From now on the engine is broken."""
        self._broken = reason

    def warm_up(self, progress: Callable[[WarmupProgress], None]) -> None:
        """RuntimeError if a slot is live."""
        self._called("warm_up")
        if self._is_warm:
            return
        if self._histories:
            raise RuntimeError(f"Slots {sorted(self._histories)} are live: release them before the warm-up.")
        self._is_warm = True
        for index, program in enumerate(("prefill", "decode"), start=1):
            progress(WarmupProgress(program, index, count=2, seconds=0.0))

    def prefill(
        self,
        slot: int,
        token_ids: Sequence[int],
        sampling: SamplingParameters,
        *,
        ranked: bool = False,
        adapter: str | None = None,
        allowed: AllowedTokens | None = None,
    ) -> FakePendingOutput:
        """RuntimeError if the slot is live or does not exist; ValueError if the prompt or the adapter does not fit."""
        self._called("prefill")
        self.prefills.append(PrefillCall(slot, tuple(token_ids), sampling, ranked, adapter))
        self._raise_planned("prefill")
        if not 0 <= slot < self._info.batch_size:
            raise RuntimeError(f"There is no slot {slot}: the slots are 0 to {self._info.batch_size - 1}.")
        if slot in self._histories:
            raise RuntimeError(f"Slot {slot} is in use: release it before the next prefill.")
        if not 1 <= len(token_ids) < self._info.max_length:
            raise ValueError(
                f"A prompt must have 1 to {self._info.max_length - 1} tokens. Given: {len(token_ids)}."
            )
        self._shifts[slot] = self._shift(adapter)
        self._histories[slot] = list(token_ids)
        if ranked:
            self._ranked.add(slot)
        self.timeline.append(f"prefill {slot}")
        pending = self._pending("prefill", f"prefill {slot}")
        pending.chosen = {slot: [self._chosen(slot, allowed, pending)]}
        return pending

    def start_step(self) -> FakeStartedStep:
        """RuntimeError if no slot is live, or if one is full and the outcome that filled it was read."""
        self._called("decode")
        self._raise_planned("decode")
        if not self._histories:
            raise RuntimeError("No slot is live: there is nothing to decode.")
        for slot, filled_by in self._filled_by.items():
            if filled_by.was_read:
                raise RuntimeError(
                    f"Slot {slot} is full: it holds {self._info.max_length} tokens, and should be released."
                )
        self._is_choosing = True
        number = self.calls["decode"]
        self.timeline.append(f"start {number}")
        return FakeStartedStep(lambda allowed: self._choose(number, allowed))

    def _choose(self, number: int, allowed: AllowedTokens | None) -> FakePendingOutput:
        self._is_choosing = False
        self.timeline.append(f"choose {number}")
        if allowed is not None:
            self.calls["masked decode"] += 1
            if allowed.shape != (self._info.batch_size, words(self._info.vocab_size)):
                raise RuntimeError(f"The masks of a step cannot have the shape {allowed.shape}.")
        pending = self._pending("decode", str(number))
        count = self._tokens_per_step if allowed is None else 1
        pending.chosen = {
            slot: [
                self._chosen(slot, None if allowed is None else allowed[slot], pending) for _ in range(count)
            ]
            for slot in self._histories
        }
        return pending

    def release(self, slot: int) -> None:
        self._called("release")
        self._histories.pop(slot, None)
        self._filled_by.pop(slot, None)
        self._ranked.discard(slot)

    def score_prompt(self, token_ids: Sequence[int], adapter: str | None = None) -> list[float]:
        """With an adapter, each logprob is lower by its place among the adapters."""
        self._called("score_prompt")
        if not self._info.scores_prompts:
            raise RuntimeError("This engine does not score prompts.")
        shift = self._shift(adapter)
        return [self.logprob_of(token_id) - shift for token_id in token_ids[1:]]

    def check_health(self) -> None:
        self.calls["check_health"] += 1
        if self._broken is not None:
            raise RuntimeError(self._broken)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(programs_compiled=2 if self._is_warm else 0)

    @staticmethod
    def logprob_of(token_id: int) -> float:
        """The logprob that goes with a token: some negative number that tells tokens apart."""
        return -1.0 - token_id / 1024

    def ranking_of(self, token_id: int) -> RankedTokens:
        """The token itself, and then its successors in the vocabulary, of which the third and fourth tie."""
        ids = [(token_id + step) % self._info.vocab_size for step in range(MAX_RANKED)]
        logprobs = [self.logprob_of(token_id) - step for step in (0, 1, 2, 2, *range(3, MAX_RANKED - 1))]
        return RankedTokens(ids, logprobs)

    def _called(self, method: str) -> None:
        self.calls[method] += 1
        if self._is_choosing:
            raise RuntimeError(f"A started step must choose before anything else is asked. Called: {method}.")

    def _chosen(self, slot: int, allowed: AllowedTokens | None, pending: FakePendingOutput) -> ChosenToken:
        history = self._histories[slot]
        if len(history) >= self._info.max_length:
            return ChosenToken(MEANINGLESS_TOKEN, float("nan"))
        token_id = (self._next_token(history) + self._shifts[slot]) % self._info.vocab_size
        if allowed is not None:
            token_id = self._first_allowed(token_id, allowed)
        history.append(token_id)
        if len(history) == self._info.max_length:
            self._filled_by[slot] = pending
        ranked = self.ranking_of(token_id) if slot in self._ranked else None
        return ChosenToken(token_id, self.logprob_of(token_id), ranked)

    def _shift(self, adapter: str | None) -> int:
        """The place of the adapter, from 1 on; 0 for the base model."""
        if adapter is None:
            return 0
        if adapter not in self._info.adapters:
            raise ValueError(f"There is no adapter {adapter!r}. Loaded: {self._info.adapters}.")
        return 1 + self._info.adapters.index(adapter)

    def _first_allowed(self, token_id: int, allowed: AllowedTokens) -> int:
        """The token itself, or the next one that is allowed. RuntimeError if none is, or for a wrong shape."""
        size = self._info.vocab_size
        if allowed.shape != (words(size),):
            raise RuntimeError(f"A mask of {size} tokens cannot have the shape {allowed.shape}.")
        bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")[:size]
        for step in range(size):
            if bits[(token_id + step) % size]:
                return (token_id + step) % size
        raise RuntimeError("No token is allowed.")

    def _pending(self, program: Program, name: str) -> FakePendingOutput:
        return FakePendingOutput(self, name, self._failures.pop((program, "read"), None))

    def _raise_planned(self, program: Program) -> None:
        error = self._failures.pop((program, "start"), None)
        if error is not None:
            raise error

    def _checksum(self, history: Sequence[int]) -> int:
        return zlib.crc32(array("q", history).tobytes()) % self._info.vocab_size
