"""The engine on an XLA device.

How nothing compiles after warm-up: every program is a `CompiledProgram`, made in `warm_up` for one of a few fixed
lengths; a request only selects among them. Inputs are made on the host and sent (an operation on a device
tensor between programs would be a small program of its own). `decode` sends nothing at all.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from loguru import logger
from torch import Tensor, nn

from text_generation_server.engine.buckets import bucket_for, decode_lengths, prefill_buckets
from text_generation_server.engine.contract import ChosenTokens, EngineLimits, PendingTokens, WarmupStep
from text_generation_server.engine.programs import Program, decode_program, prefill_program
from text_generation_server.engine.state import (
    DecodeState,
    float_parameters,
    integer_parameters,
)
from text_generation_server.engine.xla import measurement
from text_generation_server.engine.xla.compiled import CompiledProgram
from text_generation_server.sampling.parameters import SamplingParameters


@dataclass
class LiveSlot:
    """What the host knows of a live slot.

    Attributes:
        position: where its last token goes, as DecodeState.positions on the device.
        plain: its choice is the plain arg max.
    """

    position: int
    plain: bool


class PendingArray:
    """The result of a program that may still be running.

    It holds on to the state that the program consumed: releasing a buffer that a running program uses waits for
    the program to end, which would turn every start into a wait.
    """

    def __init__(self, packed: Tensor, consumed: DecodeState) -> None:
        self._packed: Tensor | None = packed
        self._consumed: DecodeState | None = consumed

    def read(self) -> ChosenTokens:
        if self._packed is None:
            raise RuntimeError("these tokens were read before")
        tokens, logprobs = self._packed.cpu().unbind(dim=1)
        self._packed = self._consumed = None
        return ChosenTokens(tokens.to(torch.int64).tolist(), logprobs.tolist())


class XlaEngine:
    """One model, one static batch, one device. See `contract.Engine`.

    Attributes:
        compilations_after_warm_up: programs compiled since warm-up; anything but 0 is a defect.
    """

    def __init__(self, model: nn.Module, state: DecodeState, limits: EngineLimits, device: torch.device) -> None:
        """`model` and `state` are on `device` already."""
        self._model = model
        self._state = state
        self._limits = limits
        self._device = device
        self._live: dict[int, LiveSlot] = {}
        self._prefill_buckets = prefill_buckets(limits.max_length)
        self._decode_lengths = decode_lengths(limits.max_length)
        self._prefill: dict[int, CompiledProgram] = {}
        self._decode: dict[tuple[int, bool], CompiledProgram] = {}
        self._compilations: int | None = None
        self._fallbacks: list[str] = []
        self._failure: Exception | None = None
        self.compilations_after_warm_up = 0

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    def warm_up(self, progress: Callable[[WarmupStep], None]) -> None:
        if self._compilations is not None:
            return
        # Largest first: what does not fit in memory shows at once.
        prefills = self._prefill_buckets[::-1]
        decodes = [(length, processed) for length in self._decode_lengths[::-1] for processed in (True, False)]
        count = len(prefills) + len(decodes)
        index = 0
        for bucket in prefills:
            index += 1
            name = f"prefill of up to {bucket} tokens"
            progress(self._compile_step(name, index, count, lambda b=bucket: self._warm_prefill(b)))  # type: ignore[misc]
        for length, processed in decodes:
            index += 1
            name = f"decode over {length} positions, {'sampling' if processed else 'greedy'}"
            progress(self._compile_step(name, index, count, lambda k=(length, processed): self._warm_decode(*k)))  # type: ignore[misc]
        self._live.clear()
        self._compilations = measurement.compilations()
        self._fallbacks = measurement.fallbacks()
        if self._fallbacks:
            logger.error(f"Operations that run on the host in every step: {', '.join(self._fallbacks)}")

    def _compile_step(self, name: str, index: int, count: int, work: Callable[[], PendingTokens]) -> WarmupStep:
        started = time.perf_counter()
        work().read()
        return WarmupStep(name, index, count, time.perf_counter() - started)

    def _warm_prefill(self, bucket: int) -> PendingTokens:
        inputs = self._prefill_inputs(0, [0], bucket, SamplingParameters())
        self._prefill[bucket] = self._compile(prefill_program(self._model), inputs)
        return self._run(self._prefill[bucket], inputs)

    def _warm_decode(self, length: int, processed: bool) -> PendingTokens:
        self._decode[length, processed] = self._compile(decode_program(self._model, length, processed), [])
        return self._run(self._decode[length, processed], [])

    def _compile(self, program: Program, inputs: list[Tensor]) -> CompiledProgram:
        state = self._state.flatten()

        def flat(arguments: list[Tensor]) -> list[Tensor]:
            successor, result = program(DecodeState.unflatten(arguments[: len(state)]), arguments[len(state) :])
            return [*successor.flatten(), result]

        return CompiledProgram(flat, [*state, *inputs], donated=len(state))

    def _run(self, program: CompiledProgram, inputs: list[Tensor]) -> PendingTokens:
        try:
            *state, result = program.run([*self._state.flatten(), *inputs])
        except Exception as error:
            # The state's buffers are gone with the failed program: nothing can be served any more.
            self._failure = error
            raise
        consumed, self._state = self._state, DecodeState.unflatten(state)
        return PendingArray(result, consumed)

    def prefill(self, slot: int, token_ids: Sequence[int], sampling: SamplingParameters) -> PendingTokens:
        length = len(token_ids)
        if not 1 <= length < self._limits.max_length:
            raise ValueError(f"a prompt must have 1 to {self._limits.max_length - 1} tokens. Given: {length}")
        if slot in self._live:
            raise RuntimeError(f"slot {slot} is in use")
        bucket = bucket_for(length, self._prefill_buckets)
        pending = self._run(self._prefill[bucket], self._prefill_inputs(slot, token_ids, bucket, sampling))
        self._live[slot] = LiveSlot(length, sampling.is_plain_greedy)
        self._watch_compilations()
        return pending

    def _prefill_inputs(
        self, slot: int, token_ids: Sequence[int], bucket: int, sampling: SamplingParameters
    ) -> list[Tensor]:
        ids = torch.zeros((1, bucket), dtype=torch.int32)
        ids[0, : len(token_ids)] = torch.tensor(token_ids, dtype=torch.int32)
        placement = torch.tensor([slot, len(token_ids)], dtype=torch.int32)
        host = [ids, placement, float_parameters(sampling), integer_parameters(sampling)]
        return [tensor.to(self._device) for tensor in host]

    def decode(self) -> PendingTokens:
        if not self._live:
            raise RuntimeError("no slot is live")
        # A slot that ran past its end while its last token was being read is clamped on the device too.
        furthest = min(max(slot.position for slot in self._live.values()), self._limits.max_length - 1)
        length = bucket_for(furthest + 1, self._decode_lengths)
        processed = not all(slot.plain for slot in self._live.values())
        pending = self._run(self._decode[length, processed], [])
        for slot in self._live.values():
            slot.position += 1
        self._watch_compilations()
        return pending

    def release(self, slot: int) -> None:
        self._live.pop(slot, None)

    def check_health(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"the engine failed: {self._failure}") from self._failure

    def _watch_compilations(self) -> None:
        assert self._compilations is not None, "warm_up comes first"
        compilations = measurement.compilations()
        if compilations != self._compilations:
            self.compilations_after_warm_up += compilations - self._compilations
            self._compilations = compilations
            logger.error(f"A program was compiled after warm-up ({self.compilations_after_warm_up} so far): a defect")
        fallbacks = measurement.fallbacks()
        if fallbacks != self._fallbacks:
            self._fallbacks = fallbacks
            logger.error(f"An operation fell back to the host after warm-up: {', '.join(fallbacks)}")
