"""The engine on an XLA device.

How nothing compiles after warm-up: every program is a `CompiledProgram`, made in `warm_up` for one of a few fixed
lengths; a request only selects among them. Inputs are made on the host and sent (an operation on a device
tensor between programs would be a small program of its own). `decode` sends nothing at all.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from loguru import logger
from torch import Tensor, nn

from text_generation_server.engine import programs
from text_generation_server.engine.buckets import bucket_for, decode_lengths, prefill_buckets
from text_generation_server.engine.contract import (
    AllowedTokens,
    ChosenTokens,
    EngineLimits,
    PendingTokens,
    RankedTokens,
    WarmupStep,
)
from text_generation_server.engine.programs import Program
from text_generation_server.engine.slot_adapters import SlotAdapters
from text_generation_server.engine.state import DecodeState, float_parameters, integer_parameters
from text_generation_server.lowering import measurement
from text_generation_server.lowering.compiled import CompiledProgram
from text_generation_server.sampling.masking import WORD_BITS
from text_generation_server.sampling.parameters import Processing, SamplingParameters, WatermarkStrength


class ProgramKey(NamedTuple):
    """Which program: its kind, and its variant (a bucket, a length of the cache, or a Processing)."""

    kind: str
    variant: int

    def __str__(self) -> str:
        variant = Processing(self.variant).name.lower() if self.kind == "choose" else self.variant
        return f"{self.kind} {variant}"


@dataclass
class LiveSlot:
    """What the host knows of a live slot.

    Attributes:
        position: where its last token goes, as SlotRows.positions on the device.
        processing: what its request asks for.
        ranked: its request asks for the best tokens.
    """

    position: int
    processing: Processing
    ranked: bool


class PendingArray:
    """The result of a program that may still be running.

    It holds on to the tensors that the program consumed: releasing a buffer that a running program uses waits for
    the program to end, which would turn every start into a wait.
    """

    def __init__(self, packed: Tensor, ranked: Tensor | None, consumed: list[Tensor]) -> None:
        """`packed` and `ranked` as `programs` makes them."""
        self._packed: Tensor | None = packed
        self._ranked = ranked
        self._consumed = consumed

    def read(self) -> ChosenTokens:
        if self._packed is None:
            raise RuntimeError("these tokens were read before")
        tokens, logprobs = self._packed.cpu().unbind(dim=1)
        ranked = None if self._ranked is None else [ranked_tokens(row) for row in self._ranked.cpu()]
        self._packed = self._ranked = None
        self._consumed = []
        return ChosenTokens(tokens.to(torch.int64).tolist(), logprobs.tolist(), ranked)


def ranked_tokens(row: Tensor) -> RankedTokens:
    """A row of `programs.rank_tokens`, without the places that hold no token."""
    tokens, logprobs = row.chunk(2)
    # XLA's maximum of nothing but -inf is the lowest finite number.
    kept = logprobs > torch.finfo(torch.float32).min
    return RankedTokens(tokens[kept].to(torch.int64).tolist(), logprobs[kept].tolist())


class XlaEngine:
    """One model, one static batch, one device. See `contract.Engine`.

    Attributes:
        compilations_after_warm_up: programs compiled since warm-up; anything but 0 is a defect.
    """

    def __init__(
        self,
        model: nn.Module,
        state: DecodeState,
        limits: EngineLimits,
        strength: WatermarkStrength,
        device: torch.device,
    ) -> None:
        """`model` and `state` are on `device` already; `model` is an AdaptedModel if `limits` names adapters."""
        self._model = model
        self._strength = strength
        self._limits = limits
        self._device = device
        self._state = state.flatten()
        # Each kind of program takes and replaces its part of the state.
        cache, rows, none = slice(0, len(state.cache)), slice(len(state.cache), None), slice(0, 0)
        self._part = {
            "prefill": cache,
            "admit": rows,
            "forward": cache,
            "choose": rows,
            "constrain": none,
            "rank": none,
            "score prompt": none,
        }
        self._compiled: dict[ProgramKey, CompiledProgram] = {}
        self._prefill_buckets = prefill_buckets(limits.max_length)
        self._decode_lengths = decode_lengths(limits.max_length)
        self._live: dict[int, LiveSlot] = {}
        self._adapters = SlotAdapters(limits.adapters, limits.batch_size, device)
        self._compilations: int | None = None
        self._fallbacks: list[str] = []
        self._failure: Exception | None = None
        self.compilations_after_warm_up = 0

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    def program_keys(self) -> list[ProgramKey]:
        """All programs, largest first, so that what does not fit in memory shows at once."""
        scored = self._prefill_buckets if self._limits.scores_prompts else []
        return [
            *(ProgramKey("prefill", bucket) for bucket in reversed(self._prefill_buckets)),
            *(ProgramKey("forward", length) for length in reversed(self._decode_lengths)),
            ProgramKey("admit", self._limits.max_length),
            *(ProgramKey("choose", processing) for processing in reversed(Processing)),
            *(ProgramKey("constrain", rows) for rows in sorted({1, self._limits.batch_size})),
            *(ProgramKey("rank", rows) for rows in sorted({1, self._limits.batch_size})),
            *(ProgramKey("score prompt", bucket) for bucket in scored[::-1]),
        ]

    def program(self, key: ProgramKey) -> Program:
        """One program, with the present state and an empty request as its arguments."""
        state = DecodeState.unflatten(self._state)
        if key.kind == "forward":
            return programs.forward(
                self._model, state.cache, state.rows, key.variant, self._adapters.of_slots
            )
        if key.kind == "choose":
            logits = self._empty_logits(self._limits.batch_size)
            processing = Processing(key.variant)
            return programs.choose_next(
                state.rows, logits, self._limits.max_length, processing, self._strength
            )
        if key.kind == "constrain":
            allowed = torch.zeros((key.variant, -(-self._limits.vocab_size // WORD_BITS)), dtype=torch.int32)
            return programs.constrain(self._empty_logits(key.variant), allowed.to(self._device))
        if key.kind == "rank":
            scores = torch.zeros((key.variant, self._limits.vocab_size), dtype=torch.float32)
            return programs.rank_tokens(scores.to(self._device))
        ids, placement = self._send_ids([0], key.variant), self._send_placement(0, 1)
        adapters = self._adapters.of_prompt(None)
        if key.kind == "prefill":
            return programs.prefill(self._model, state.cache, ids, placement, adapters)
        if key.kind == "score prompt":
            return programs.score_prompt(self._model, len(state.cache) // 2, ids, adapters)
        parameters = self._send_parameters(SamplingParameters())
        inputs = [self._empty_logits(1), ids, placement, *parameters]
        return programs.admit(state.rows, inputs, self._strength)

    def _empty_logits(self, rows: int) -> Tensor:
        dtype = next(self._model.parameters()).dtype
        return torch.zeros((rows, self._limits.vocab_size), dtype=dtype).to(self._device)

    def warm_up(self, progress: Callable[[WarmupStep], None]) -> None:
        if self._compilations is not None:
            return
        keys = self.program_keys()
        for index, key in enumerate(keys, start=1):
            started = time.perf_counter()
            program = self.program(key)
            # Run as well: the first run allocates, and a defect should show now.
            self._run(key, program.arguments[program.donated :])[0].cpu()
            progress(WarmupStep(str(key), index, len(keys), time.perf_counter() - started))
        self._compilations = measurement.compilations()
        self._fallbacks = measurement.fallbacks()
        if self._fallbacks:
            logger.error(f"Operations that run on the host in every step: {', '.join(self._fallbacks)}")

    def _run(self, key: ProgramKey, inputs: list[Tensor]) -> list[Tensor]:
        """Starts a program on its part of the state, replaces that part, and returns the results.

        A program that was not compiled yet is compiled: after warm-up there is none.
        """
        part = self._part[key.kind]
        try:
            compiled = self._compiled.get(key)
            if compiled is None:
                compiled = self._compiled[key] = CompiledProgram(self.program(key))
            arguments = self._state[part]
            outputs = compiled.run([*arguments, *inputs])
        except Exception as error:
            # The donated buffers are gone with the failed program: nothing can be served any more.
            self._failure = error
            raise
        self._state[part] = outputs[: len(arguments)]
        return outputs[len(arguments) :]

    def prefill(
        self,
        slot: int,
        token_ids: Sequence[int],
        sampling: SamplingParameters,
        ranked: bool = False,
        adapter: str | None = None,
        allowed: AllowedTokens | None = None,
    ) -> PendingTokens:
        length = len(token_ids)
        if not 1 <= length < self._limits.max_length:
            raise ValueError(f"a prompt must have 1 to {self._limits.max_length - 1} tokens. Given: {length}")
        if slot in self._live:
            raise RuntimeError(f"slot {slot} is in use")
        bucket = bucket_for(length, self._prefill_buckets)
        ids = self._send_ids(token_ids, bucket)
        padded = self._send_ids(token_ids, self._limits.max_length)
        placement = self._send_placement(slot, length)
        parameters = self._send_parameters(sampling)
        adapters = self._adapters.of_prompt(adapter)
        consumed = [*self._state, ids, padded, placement, *parameters, *adapters]
        (logits,) = self._run(ProgramKey("prefill", bucket), [ids, placement, *adapters])
        if allowed is not None:
            logits = self._constrain(logits, allowed.reshape(1, -1), consumed)
        packed, scores = self._run(
            ProgramKey("admit", self._limits.max_length), [logits, padded, placement, *parameters]
        )
        best = self._rank(scores) if ranked else None
        self._live[slot] = LiveSlot(length, sampling.processing, ranked)
        self._adapters.assign(slot, adapter)
        self._watch_compilations()
        return PendingArray(packed, best, [*consumed, logits, scores])

    def _constrain(self, logits: Tensor, allowed: AllowedTokens, consumed: list[Tensor]) -> Tensor:
        """The logits of the allowed tokens, [rows, words]; adds what the program consumes to `consumed`."""
        mask = torch.from_numpy(allowed).to(self._device)
        (constrained,) = self._run(ProgramKey("constrain", logits.shape[0]), [logits, mask])
        consumed += [logits, mask]
        return constrained

    def _rank(self, scores: Tensor) -> Tensor:
        (best,) = self._run(ProgramKey("rank", scores.shape[0]), [scores])
        return best

    def score_prompt(self, token_ids: Sequence[int], adapter: str | None = None) -> list[float]:
        if not self._limits.scores_prompts:
            raise RuntimeError("this engine was loaded without prompt logprobs")
        bucket = bucket_for(len(token_ids), self._prefill_buckets)
        inputs = [self._send_ids(token_ids, bucket), *self._adapters.of_prompt(adapter)]
        (logprobs,) = self._run(ProgramKey("score prompt", bucket), inputs)
        self._watch_compilations()
        known: list[float] = logprobs.cpu()[: len(token_ids) - 1].tolist()
        return known

    def _send_ids(self, token_ids: Sequence[int], bucket: int) -> Tensor:
        ids = torch.zeros((1, bucket), dtype=torch.int32)
        ids[0, : len(token_ids)] = torch.tensor(token_ids, dtype=torch.int32)
        return ids.to(self._device)

    def _send_placement(self, slot: int, length: int) -> Tensor:
        return torch.tensor([slot, length], dtype=torch.int32).to(self._device)

    def _send_parameters(self, sampling: SamplingParameters) -> list[Tensor]:
        return [float_parameters(sampling).to(self._device), integer_parameters(sampling).to(self._device)]

    def decode(self, allowed: Callable[[], AllowedTokens] | None = None) -> PendingTokens:
        if not self._live:
            raise RuntimeError("no slot is live")
        # A slot that ran past its end while its last token was being read is clamped on the device too.
        furthest = min(max(slot.position for slot in self._live.values()), self._limits.max_length - 1)
        length = bucket_for(furthest + 1, self._decode_lengths)
        processing = max(slot.processing for slot in self._live.values())
        consumed = [*self._state, *self._adapters.of_slots]
        rows = DecodeState.unflatten(self._state).rows
        inputs = [rows.tokens, rows.positions, *self._adapters.of_slots]
        (logits,) = self._run(ProgramKey("forward", length), inputs)
        if allowed is not None:
            logits = self._constrain(logits, allowed(), consumed)
        packed, scores = self._run(ProgramKey("choose", processing), [logits])
        best = self._rank(scores) if any(slot.ranked for slot in self._live.values()) else None
        for slot in self._live.values():
            slot.position += 1
        self._watch_compilations()
        return PendingArray(packed, best, [*consumed, logits, scores])

    def release(self, slot: int) -> None:
        self._live.pop(slot, None)

    def check_health(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"the engine failed: {self._failure}") from self._failure

    def _watch_compilations(self) -> None:
        """Counts and reports what must not happen after warm-up."""
        if self._compilations is None:
            # Warm-up was skipped, for debugging: programs are compiled as they are needed.
            return
        compilations = measurement.compilations()
        if compilations != self._compilations:
            self.compilations_after_warm_up += compilations - self._compilations
            self._compilations = compilations
            logger.error(
                f"A program was compiled after warm-up ({self.compilations_after_warm_up} so far): a defect"
            )
        fallbacks = measurement.fallbacks()
        if fallbacks != self._fallbacks:
            self._fallbacks = fallbacks
            logger.error(f"An operation fell back to the host after warm-up: {', '.join(fallbacks)}")
