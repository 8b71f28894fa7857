"""An engine without a model: each next token is a function of the slot's tokens so far.

It serves tests of everything above the engine. It keeps the contract strictly, so that a caller who
breaks it learns so here and not on a device.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    Prefix,
    PromptLogprobs,
    RankedTokens,
    Wanted,
    WarmupProgress,
)
from text_generation_server.engine.drafting import check_drafts
from text_generation_server.engine.filling import check_fill
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import SamplingParameters

Program = Literal["extend", "decode"]

MEANINGLESS_TOKEN = -1
"""What a step chooses for a slot that is full: no token id, so that using it is noticed."""


@dataclass(frozen=True)
class FillCall:
    """The arguments of one `fill`."""

    slot: int
    token_ids: tuple[int, ...]
    sampling: SamplingParameters
    ranked: bool
    scored: bool = False
    adapter: str | None = None
    prefix: Prefix | None = None


@dataclass
class Filling:
    """A prompt of which the slot holds the first `held` tokens."""

    call: FillCall
    held: int


class FakePending:
    """A program that ran when it was started, or the error that reading it raises; it may be read once."""

    def __init__(self, engine: "FakeEngine", name: str, error: Exception | None) -> None:
        self.was_read = False
        self._engine = engine
        self._name = name
        self._error = error

    def _note_read(self) -> None:
        if self.was_read:
            raise RuntimeError("The outcome of a program may be read once; it was read before.")
        self.was_read = True
        self._engine.calls["read"] += 1
        self._engine.timeline.append(f"read {self._name}")
        if self._error is not None:
            raise self._error


class FakePendingOutput(FakePending):
    """An outcome of a step."""

    def __init__(self, engine: "FakeEngine", name: str, error: Exception | None) -> None:
        super().__init__(engine, name, error)
        self.chosen: ChosenTokens = {}

    def read(self) -> ChosenTokens:
        self._note_read()
        return self.chosen


class FakePendingPiece(FakePending):
    """A piece."""

    def __init__(
        self,
        engine: "FakeEngine",
        held: Mapping[int, int],
        completed: Sequence[int],
        logprobs: PromptLogprobs,
        error: Exception | None,
    ) -> None:
        super().__init__(engine, f"extend {names_of(held)}", error)
        self.held = held
        self.completed = completed
        self._logprobs = logprobs

    def read(self) -> PromptLogprobs:
        self._note_read()
        return self._logprobs


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
        calls: how often each method was called; "decode" counts the steps that were started, "masked decode" and
            "masked verify" those in which not all tokens were allowed, "read" the outcomes that were read.
        fills: the arguments of all fills, oldest first.
        drafts: those of all verifications, oldest first.
        counts: the steps that each `start_steps` was asked for and took, oldest first.
        timeline: what was asked of the engine, oldest first: "extend 0" (the slots), "start 1", "choose 1",
            "read 1" (the number of the step), "read extend 0", "verify 1", "read verify 1", "steps 1", "read steps 1".
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
        tokens_per_piece: int = 64,
        drafts: int = 0,
        steps: int = 0,
    ) -> None:
        """`next_token` maps prompt and output so far to the next token id; by default a checksum of them.

        With the first adapter a slot gets the successor of that token in the vocabulary, with the second the
        successor of that one, and so on. A step without masks chooses `tokens_per_step` for each slot; a piece has
        `tokens_per_piece`, each slot up to `drafts` drafts, and `start_steps` takes up to `steps`.
        """
        self._info = EngineInfo(
            batch_size,
            max_length,
            vocab_size,
            "float32",
            "fake",
            scores_prompts,
            adapters,
            drafts=drafts,
            steps=steps,
        )
        self._next_token = next_token or self._checksum
        self._tokens_per_step = tokens_per_step
        self._tokens_per_piece = tokens_per_piece
        self._filling: dict[int, Filling] = {}
        self._held: dict[int, tuple[str | None, list[int]]] = {}
        self._histories: dict[int, list[int]] = {}
        self._filled_by: dict[int, FakePendingOutput] = {}
        self._ranked: set[int] = set()
        self._shifts: dict[int, int] = {}
        self._failures: dict[tuple[Program, str], Exception] = {}
        self._broken: str | None = None
        self._is_warm = False
        self._is_choosing = False
        self.calls: Counter[str] = Counter()
        self.fills: list[FillCall] = []
        self.drafts: list[dict[int, tuple[int, ...]]] = []
        self.counts: list[tuple[int, int]] = []
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
        if used := sorted({*self._histories, *self._filling}):
            raise RuntimeError(f"Slots {used} are in use: release them before the warm-up.")
        self._is_warm = True
        for index, program in enumerate(("extend", "decode"), start=1):
            progress(WarmupProgress(program, index, count=2, seconds=0.0))

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
        """As the contract says; also RuntimeError for a prefix that its slot does not hold."""
        self._called("fill")
        call = FillCall(slot, tuple(token_ids), sampling, ranked, scored, adapter, prefix)
        self.fills.append(call)
        used = self._histories.keys() | self._filling.keys()
        check_fill(slot, len(token_ids), scored, prefix, used, self._info)
        self._shifts[slot] = self._shift(adapter)
        kept = 0
        if prefix is not None:
            kept = min(prefix.length, len(token_ids) - 1)
            holder, held = self._held.get(prefix.slot, (adapter, []))
            if holder != adapter or held[: prefix.length] != list(token_ids[: prefix.length]):
                raise RuntimeError(
                    f"Slot {prefix.slot} holds {held} for {holder}, and not the prefix {prefix}."
                )
        self._held[slot] = (adapter, list(token_ids[:kept]))
        filling = Filling(call, kept)
        if self._is_complete(filling):
            self._admit(filling)
            return True
        self._filling[slot] = filling
        return False

    def extend(self) -> FakePendingPiece:
        """Takes `tokens_per_piece` from the first slots; prompts that are scored go alone."""
        self._called("extend")
        self._raise_planned("extend")
        if not self._filling:
            raise RuntimeError("No slot is filling: there is nothing to extend.")
        room, completed = self._tokens_per_piece, []
        held: dict[int, int] = {}
        logprobs: dict[int, list[float]] = {}
        for slot, filling in list(self._filling.items()):
            call, start = filling.call, filling.held
            if room == 0 or (held and call.scored):
                break
            filling.held = min(start + room, len(call.token_ids) - 1)
            room -= filling.held - start
            self._held[slot][1].extend(call.token_ids[start : filling.held])
            held[slot] = filling.held
            if call.scored:
                tokens = call.token_ids[start + 1 : filling.held + 1]
                logprobs[slot] = [self.logprob_of(token) - self._shifts[slot] for token in tokens]
            if self._is_complete(filling):
                del self._filling[slot]
                self._admit(filling)
                completed.append(slot)
            if call.scored:
                break
        self.timeline.append(f"extend {names_of(held)}")
        return FakePendingPiece(self, held, completed, logprobs, self._failures.pop(("extend", "read"), None))

    @staticmethod
    def _is_complete(filling: Filling) -> bool:
        """The last token is left to the first step."""
        return filling.held == len(filling.call.token_ids) - 1

    def _admit(self, filling: Filling) -> None:
        call = filling.call
        self._histories[call.slot] = list(call.token_ids)
        if call.ranked:
            self._ranked.add(call.slot)

    def start_step(self) -> FakeStartedStep:
        """RuntimeError if no slot is live, or if one is full and the outcome that filled it was read."""
        self._called("decode")
        self._check_step()
        self._is_choosing = True
        number = self.calls["decode"]
        self.timeline.append(f"start {number}")
        return FakeStartedStep(lambda allowed: self._choose(number, allowed))

    def verify(
        self, drafts: Mapping[int, Sequence[int]], allowed: Sequence[AllowedTokens] = ()
    ) -> FakePendingOutput:
        """As the contract says, and what `start_step` raises."""
        self._called("verify")
        self._check_step()
        check_drafts(drafts, {slot: len(each) - 1 for slot, each in self._histories.items()}, self._info)
        self.drafts.append({slot: tuple(tokens) for slot, tokens in drafts.items()})
        number = f"verify {self.calls['verify']}"
        self.timeline.append(number)
        pending = self._pending("decode", number)
        chosen: dict[int, list[ChosenToken]] = {}
        self.calls["masked verify"] += bool(allowed)
        for slot in self._histories:
            masks = [each[slot] for each in allowed]
            chosen[slot] = [self._chosen(slot, masks[0] if masks else None, pending)]
            for place, draft in enumerate(drafts.get(slot, ()), start=1):
                if chosen[slot][-1].token_id != draft:
                    break
                mask = masks[place] if place < len(masks) else None
                chosen[slot].append(self._chosen(slot, mask, pending))
        pending.chosen = chosen
        return pending

    def start_steps(self, count: int, wanted: Mapping[int, Wanted]) -> FakePendingOutput:
        """As the contract says, and what `start_step` raises."""
        self._called("steps")
        self._check_step()
        if not self.can_start_steps():
            raise RuntimeError("Alternatives take one step at a time.")
        if not 1 <= count <= self._info.steps:
            raise ValueError(f"A program takes 1 to {self._info.steps} steps. Given: {count}.")
        number = f"steps {self.calls['steps']}"
        self.timeline.append(number)
        pending = self._pending("decode", number)
        chosen: dict[int, list[ChosenToken]] = {slot: [] for slot in self._histories}
        left = {slot: each.tokens for slot, each in wanted.items()}
        taken = 0
        while taken < count and any(tokens > 0 for tokens in left.values()):
            taken += 1
            for slot, tokens in chosen.items():
                tokens.append(self._chosen(slot, None, pending))
            for slot, each in wanted.items():
                is_end = chosen[slot][-1].token_id in each.ends
                left[slot] = 0 if is_end else left[slot] - 1
        self.counts.append((count, taken))
        pending.chosen = chosen
        return pending

    def can_start_steps(self) -> bool:
        return bool(self._info.steps) and not self._ranked & self._histories.keys()

    def _check_step(self) -> None:
        self._raise_planned("decode")
        if not self._histories:
            raise RuntimeError("No slot is live: there is nothing to decode.")
        for slot, filled_by in self._filled_by.items():
            if filled_by.was_read:
                raise RuntimeError(
                    f"Slot {slot} is full: it holds {self._info.max_length} tokens, and should be released."
                )

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
        self._filling.pop(slot, None)
        self._filled_by.pop(slot, None)
        self._ranked.discard(slot)

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
        # The step has written the token before into the slot.
        self._held[slot][1].append(history[-1])
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
        """The token itself, or the next one that is allowed. RuntimeError if none is."""
        size = self._info.vocab_size
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


def names_of(slots: Iterable[int]) -> str:
    return ",".join(str(slot) for slot in slots)
