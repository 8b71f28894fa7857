"""The engine: which program runs when, and on which part of the state.

How nothing compiles after warm-up: every program is compiled ahead for one of a few fixed lengths, and a request only
selects among them. Inputs are made on the host and sent. A steady step sends nothing to the device; one in which a
slot has a grammar sends the masks.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from text_generation_server.engine.buckets import bucket_for, decode_lengths, prefill_buckets
from text_generation_server.engine.contract import (
    AllowedTokens,
    EngineInfo,
    EngineStatistics,
    PendingOutput,
    WarmupProgress,
)
from text_generation_server.engine.device import Buffer, Device, RunnableProgram
from text_generation_server.engine.pending import PendingRows
from text_generation_server.engine.sharding import Sharding
from text_generation_server.engine.slot_adapters import SlotAdapters
from text_generation_server.engine.state import BatchShape, float_parameters, integer_parameters
from text_generation_server.engine.watch import DeviceWatch
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import Processing, SamplingParameters


@dataclass
class LiveSlot:
    """What the host knows of a live slot.

    Attributes:
        position: where its last token goes, as `positions` on the device.
        processing: what its request asks for.
        ranked: its request asks for the best tokens.
    """

    position: int
    processing: Processing
    ranked: bool


class ModelStep:
    """A step in which the model runs; see `contract.StartedStep`."""

    def __init__(self, engine: "StaticBatchEngine", logits: Buffer) -> None:
        self._engine = engine
        self._logits: Buffer | None = logits

    def choose(self, allowed: AllowedTokens | None = None) -> PendingOutput:
        if self._logits is None:
            raise RuntimeError("The tokens of this step were chosen before.")
        logits, self._logits = self._logits, None
        return self._engine.choose(logits, allowed)


class StaticBatchEngine:
    """One model and one static batch on a device. See `contract.Engine`."""

    def __init__(
        self,
        info: EngineInfo,
        shape: BatchShape,
        sharding: Sharding,
        state: Mapping[str, Buffer],
        device: Device,
        programs: Mapping[str, RunnableProgram],
        new_programs: Sequence[str],
        hang_seconds: float,
    ) -> None:
        """
        Args:
            sharding: of the arrays, over the chips of the device.
            state: the arrays of `shape`, by name.
            programs: all of `catalogue.names`; reading one that is missing may compile it.
            new_programs: those that were compiled for this start, and never ran.
        """
        self._info = info
        self._shape = shape
        self._sharding = sharding
        self._state = dict(state)
        self._device = device
        self._programs = programs
        self._new_programs = list(new_programs)
        self._prefill_buckets = prefill_buckets(info.max_length)
        self._decode_lengths = decode_lengths(info.max_length)
        self._live: dict[int, LiveSlot] = {}
        self._adapters = SlotAdapters(info.adapters, info.batch_size)
        self._unchosen: ModelStep | None = None
        self._last: PendingRows | None = None
        self._compilations: int | None = None
        self._compilations_after_warm_up = 0
        self._watch = DeviceWatch(hang_seconds)
        self._send_adapters()

    @property
    def info(self) -> EngineInfo:
        return self._info

    def warm_up(self, progress: Callable[[WarmupProgress], None]) -> None:
        """Runs the smallest of each kind of program that never ran before, since a defect should show now."""
        if self._compilations is not None:
            return
        if self._live:
            raise RuntimeError(f"Slots {sorted(self._live)} are live: warm up before the first prefill.")
        # The later names of a kind are the smaller ones.
        smallest = {name.rpartition(" ")[0]: name for name in self._programs if name in self._new_programs}
        for index, name in enumerate(smallest.values(), start=1):
            started = time.perf_counter()
            results = self._run(name, self._empty_inputs(name))
            with self._watch.waiting():
                for result in results.values():
                    self._device.read(result)
            seconds = time.perf_counter() - started
            progress(WarmupProgress(name, index, len(smallest), seconds, "first run"))
        self._compilations = self._device.compilations()

    def prefill(
        self,
        slot: int,
        token_ids: Sequence[int],
        sampling: SamplingParameters,
        *,
        ranked: bool = False,
        adapter: str | None = None,
        allowed: AllowedTokens | None = None,
    ) -> PendingOutput:
        self._require_chosen()
        length, limit = len(token_ids), self._info.max_length
        if not 1 <= length < limit:
            raise ValueError(f"A prompt must have 1 to {limit - 1} tokens. Given: {length}.")
        if not 0 <= slot < self._info.batch_size:
            raise RuntimeError(f"There is no slot {slot}: the slots are 0 to {self._info.batch_size - 1}.")
        if slot in self._live:
            raise RuntimeError(f"Slot {slot} is in use: release it before the next prefill.")
        index = self._adapters.index(adapter)
        placement = {"slot": self._send([slot]), "length": self._send([length])}
        bucket = bucket_for(length, self._prefill_buckets)
        inputs = {**placement, **self._prompt(token_ids, bucket, index)}
        logits = self._run(f"prefill {bucket}", inputs)["logits"]
        if allowed is not None:
            logits = self._constrain(logits, allowed.reshape(1, -1))
        processing = sampling.processing
        admitted = {
            **placement,
            "logits": logits,
            "last": self._send([token_ids[-1]]),
            "new_floats": self._device.send(float_parameters(sampling)),
            "new_integers": self._device.send(integer_parameters(sampling)),
        }
        if processing is not Processing.NONE:
            counts = np.bincount(np.asarray(token_ids), minlength=self._info.vocab_size)
            admitted["new_counts"] = self._device.send(counts.astype(np.int32).reshape(1, -1))
        results = self._run(f"admit {processing.name.lower()}", admitted)
        best = self._rank(results["scores"], 1) if ranked else None
        self._live[slot] = LiveSlot(length, processing, ranked)
        if self._adapters.assign(slot, index):
            self._send_adapters()
        return self._pending(results["chosen"], best, [(slot, 0, ranked)])

    def start_step(self) -> ModelStep:
        self._require_chosen()
        if not self._live:
            raise RuntimeError("No slot is live: there is nothing to decode.")
        self._note_idle_time()
        # A slot that ran past its end while its last token was being read is clamped on the device too.
        furthest = min(max(slot.position for slot in self._live.values()), self._info.max_length - 1)
        length = bucket_for(furthest + 1, self._decode_lengths)
        logits = self._run(f"forward {length}", {})["logits"]
        self._unchosen = ModelStep(self, logits)
        return self._unchosen

    def choose(self, logits: Buffer, allowed: AllowedTokens | None) -> PendingOutput:
        """The second half of a step, see `ModelStep`."""
        self._unchosen = None
        if allowed is not None:
            logits = self._constrain(logits, allowed)
        # A slot may have been released since the step was started.
        processing = max((slot.processing for slot in self._live.values()), default=Processing.NONE)
        results = self._run(f"choose {processing.name.lower()}", {"logits": logits})
        wants = [(slot, slot, live.ranked) for slot, live in self._live.items()]
        best = self._rank(results["scores"], self._info.batch_size) if any(w for *_, w in wants) else None
        for live in self._live.values():
            live.position += 1
        return self._pending(results["chosen"], best, wants)

    def score_prompt(self, token_ids: Sequence[int], adapter: str | None = None) -> list[float]:
        self._require_chosen()
        if not self._info.scores_prompts:
            raise RuntimeError("This engine does not score prompts.")
        bucket = bucket_for(len(token_ids), self._prefill_buckets)
        inputs = self._prompt(token_ids, bucket, self._adapters.index(adapter))
        logprobs = self._run(f"score prompt {bucket}", inputs)["logprobs"]
        with self._watch.waiting():
            known: list[float] = self._device.read(logprobs)[: len(token_ids) - 1].tolist()
        return known

    def release(self, slot: int) -> None:
        self._live.pop(slot, None)

    def check_health(self) -> None:
        self._watch.check()

    def statistics(self) -> EngineStatistics:
        used, limit = self._device.memory()
        return EngineStatistics(
            compilations_after_warm_up=self._compilations_after_warm_up,
            programs_compiled=len(self._new_programs),
            programs_from_cache=len(self._programs) - len(self._new_programs),
            call_seconds=self._watch.call_seconds(),
            idle_seconds=self._watch.idle_seconds,
            memory_used=used,
            memory_limit=limit,
        )

    def _run(self, name: str, inputs: Mapping[str, Buffer]) -> dict[str, Buffer]:
        """Starts a program, replaces the state that it succeeds, and returns the other results."""
        # The donated buffers are gone with a failed program: nothing can be served any more.
        with self._watch.waiting():
            results = self._programs[name].run(self._state, inputs)
        outputs = {}
        for key, result in results.items():
            if key in self._state:
                self._state[key] = result
            else:
                outputs[key] = result
        return outputs

    def _pending(
        self, packed: Buffer, ranked: Buffer | None, rows: Sequence[tuple[int, int, bool]]
    ) -> PendingRows:
        self._watch_compilations()
        self._last = PendingRows(self._device, self._watch, packed, ranked, rows)
        return self._last

    def _constrain(self, logits: Buffer, allowed: AllowedTokens) -> Buffer:
        """The logits with only the allowed tokens left; `allowed` is [rows, words]."""
        inputs = {"logits": logits, "allowed": self._device.send(allowed)}
        return self._run(f"constrain {len(allowed)}", inputs)["constrained"]

    def _rank(self, scores: Buffer, rows: int) -> Buffer:
        return self._run(f"rank {rows}", {"scores": scores})["ranked"]

    def _prompt(self, token_ids: Sequence[int], bucket: int, adapter: int) -> dict[str, Buffer]:
        ids = np.zeros((1, bucket), dtype=np.int32)
        ids[0, : len(token_ids)] = token_ids
        inputs = {"ids": self._device.send(ids)}
        if self._shape.adapters:
            inputs["adapter"] = self._send([adapter])
        return inputs

    def _send(self, values: Sequence[int]) -> Buffer:
        return self._device.send(np.array(values, dtype=np.int32))

    def _send_adapters(self) -> None:
        if self._shape.adapters:
            self._state["adapters"] = self._send(self._adapters.of_slots)

    def _require_chosen(self) -> None:
        if self._unchosen is not None:
            raise RuntimeError("A step was started and not chosen: call choose() before anything else.")

    def _empty_inputs(self, name: str) -> dict[str, Buffer]:
        """Inputs of the right shapes, for a first run. Slot 0 is not live, so what is written there means nothing."""
        kind, _, variant = name.rpartition(" ")
        vocabulary = self._info.vocab_size
        rows = {"choose": self._info.batch_size, "admit": 1}.get(kind) or (
            int(variant) if kind in ("constrain", "rank") else 1
        )
        neutral = SamplingParameters()
        arrays: dict[str, NDArray[Any]] = {
            "slot": np.array([0], np.int32),
            "length": np.array([1], np.int32),
            "last": np.array([0], np.int32),
            "new_floats": float_parameters(neutral),
            "new_integers": integer_parameters(neutral),
            "new_counts": np.zeros((1, vocabulary), np.int32),
            "logits": np.zeros((rows, vocabulary), self._shape.dtype),
            "scores": np.zeros((rows, vocabulary), np.float32),
            "allowed": np.full((rows, words(vocabulary)), -1, np.int32),
        }
        if kind in ("prefill", "score prompt"):
            arrays["ids"] = np.zeros((1, int(variant)), np.int32)
            arrays["adapter"] = np.array([0], np.int32)
        return {
            key: self._device.send(array, self._sharding.array(key, array.shape))
            for key, array in arrays.items()
        }

    def _note_idle_time(self) -> None:
        """Adds the time since the device was last seen busy, if it has nothing to do now."""
        if self._last is None:
            return
        now = time.monotonic()
        if self._last.packed is None or self._device.is_computed(self._last.packed):
            self._watch.idle_seconds += now - self._watch.seen_busy

    def _watch_compilations(self) -> None:
        """Counts and reports what must not happen after warm-up."""
        if self._compilations is None:
            # Warm-up was skipped, for debugging: programs are compiled as they are needed.
            return
        compilations = self._device.compilations()
        if compilations != self._compilations:
            self._compilations_after_warm_up += compilations - self._compilations
            self._compilations = compilations
            logger.error(
                f"A program was compiled after warm-up ({self._compilations_after_warm_up} so far): a defect"
            )
