"""The engine: which program runs when, and on which part of the state.

How nothing compiles after warm-up: every program is compiled ahead for one of a few fixed lengths, and a request only
selects among them. Inputs are made on the host and sent. A steady step sends nothing to the device; one in which a
slot has a grammar sends the masks.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from text_generation_server.engine.buckets import bucket_for, decode_lengths, piece_shapes
from text_generation_server.engine.catalogue import LOOPED, admission, kind_of
from text_generation_server.engine.contract import (
    AllowedTokens,
    ChosenTokens,
    EngineInfo,
    EngineStatistics,
    PendingOutput,
    Prefix,
    Wanted,
    WarmupProgress,
)
from text_generation_server.engine.device import Buffer, Device, RunnableProgram
from text_generation_server.engine.drafting import check_drafts, draft_arrays, wanted_arrays
from text_generation_server.engine.filling import (
    FillingSlot,
    check_fill,
    next_rows,
    piece_arrays,
    row_start,
)
from text_generation_server.engine.first_run import empty_inputs
from text_generation_server.engine.pending import (
    Pending,
    PendingRows,
    PendingRun,
    PendingTokens,
    ScoredRow,
)
from text_generation_server.engine.sharding import Sharding
from text_generation_server.engine.slot_adapters import SlotAdapters
from text_generation_server.engine.state import BatchShape, float_parameters, integer_parameters
from text_generation_server.engine.watch import CompilationWatch, DeviceWatch
from text_generation_server.sampling.parameters import Processing, SamplingParameters


@dataclass
class LiveSlot:
    """What the host knows of a live slot.

    Attributes:
        position: where its last token goes, as `positions` on the device; while a step with drafts was not read, where
            it goes at most.
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
        self._piece_shapes = piece_shapes(shape.slots, shape.length, shape.chunk)
        self._decode_lengths = decode_lengths(info.max_length)
        self._filling: dict[int, FillingSlot] = {}
        self._live: dict[int, LiveSlot] = {}
        self._adapters = SlotAdapters(info.adapters, info.batch_size)
        self._unchosen: ModelStep | None = None
        self._last: Pending | None = None
        self._compilations = CompilationWatch(device.compilations)
        self._watch = DeviceWatch(hang_seconds)
        self._send_adapters()

    @property
    def info(self) -> EngineInfo:
        return self._info

    def warm_up(self, progress: Callable[[WarmupProgress], None]) -> None:
        """Runs the smallest of each kind of program that never ran before, since a defect should show now."""
        if self._compilations.is_warm:
            return
        if self._live or self._filling:
            raise RuntimeError(
                f"Slots {sorted({*self._live, *self._filling})} are in use: warm up before the first request."
            )
        # The later names of a kind are the smaller ones.
        smallest = {kind_of(name): name for name in self._programs if name in self._new_programs}
        for index, name in enumerate(smallest.values(), start=1):
            started = time.perf_counter()
            inputs = empty_inputs(name, self._shape, self._info)
            results = self._run(
                name,
                {
                    key: self._device.send(array, self._sharding.array(key, array.shape))
                    for key, array in inputs.items()
                },
            )
            with self._watch.waiting():
                for result in results.values():
                    self._device.read(result)
            seconds = time.perf_counter() - started
            progress(WarmupProgress(name, index, len(smallest), seconds, "first run"))
        self._compilations.begin()

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
        self._require_chosen()
        check_fill(slot, len(token_ids), scored, prefix, self._live.keys() | self._filling.keys(), self._info)
        index = self._adapters.index(adapter)
        kept = 0 if prefix is None else min(prefix.length, len(token_ids) - 1)
        placement = {"slot": slot, "source": slot if prefix is None else prefix.slot, "kept": kept}
        self._run("seat", {name: self._send([value]) for name, value in placement.items()})
        tokens = np.asarray(token_ids, dtype=np.int32)
        filling = FillingSlot(slot, tokens, kept, sampling, index, ranked, scored)
        if filling.missing:
            self._filling[slot] = filling
            return False
        self._admit(filling)
        return True

    def extend(self) -> PendingRun:
        self._require_chosen()
        if not self._filling:
            raise RuntimeError("No slot is filling: there is nothing to extend.")
        shape, rows = next_rows(list(self._filling.values()), self._piece_shapes)
        arrays = piece_arrays(rows, shape, self._info.max_length)
        is_scored = rows[0].filling.scored
        if not is_scored:
            del arrays["next_ids"]
        if not self._shape.adapters:
            del arrays["row_adapters"]
        if not self._shape.by_length:
            del arrays["prompts"]
        inputs = {name: self._device.send(array) for name, array in arrays.items()}
        kind, result = ("score", "logprobs") if is_scored else ("extend", "ends")
        packed = self._run(f"{kind} {shape}", inputs)[result]
        for row in rows:
            row.filling.held = row.end
        complete = [each for each in self._filling.values() if not each.missing]
        for each in complete:
            del self._filling[each.slot]
            self._admit(each)
        held = {row.filling.slot: row.end for row in rows}
        scored = []
        for place, row in enumerate(rows if is_scored else ()):
            start = row_start(row, shape, self._info.max_length)
            scored.append(ScoredRow(row.filling.slot, place, row.start - start, row.end - start))
        self._compilations.look()
        self._last = PendingRun(
            self._device, self._watch, packed, held, [each.slot for each in complete], scored
        )
        return self._last

    def start_step(self) -> ModelStep:
        self._require_chosen()
        if not self._live:
            raise RuntimeError("No slot is live: there is nothing to decode.")
        self._watch.note_idle_time(self._last)
        length = self._length_for(max(slot.position for slot in self._live.values()))
        logits = self._run(f"forward {length}", {})["logits"]
        self._unchosen = ModelStep(self, logits)
        return self._unchosen

    def choose(self, logits: Buffer, allowed: AllowedTokens | None) -> PendingOutput:
        """The second half of a step, see `ModelStep`."""
        self._unchosen = None
        if allowed is not None:
            logits = self._constrained(logits, allowed)
        # A slot may have been released since the step was started.
        processing = max((slot.processing for slot in self._live.values()), default=Processing.NONE)
        results = self._run(f"choose {processing.name.lower()}", {"logits": logits})
        wants = {slot: live.ranked for slot, live in self._live.items()}
        best = None
        if any(wants.values()):
            best = self._run("rank", {"scores": results["scores"]})["ranked"]
        for live in self._live.values():
            live.position += 1
        self._compilations.look()
        pending = PendingRows(self._device, self._watch, results["chosen"], best, wants)
        self._last = pending
        return pending

    def verify(
        self, drafts: Mapping[int, Sequence[int]], allowed: Sequence[AllowedTokens] = ()
    ) -> PendingOutput:
        self._require_chosen()
        if not self._live:
            raise RuntimeError("No slot is live: there is nothing to decode.")
        check_drafts(drafts, {slot: live.position for slot, live in self._live.items()}, self._info)
        self._watch.note_idle_time(self._last)
        live = dict(self._live)
        steps = {slot: 1 + len(drafts.get(slot, ())) for slot in live}
        inputs = {name: self._device.send(array) for name, array in draft_arrays(drafts, self._info).items()}
        length = self._length_for(max(each.position + steps[slot] - 1 for slot, each in live.items()))
        results = self._run(f"verify {length}", {"drafts": inputs["drafts"]})
        for place, masks in enumerate(allowed):
            results[f"logits.{place}"] = self._constrained(results[f"logits.{place}"], masks)
        processing = max(each.processing for each in live.values())
        results = self._run(f"accept {processing.name.lower()}", results | inputs)
        places = max((steps[slot] for slot, each in live.items() if each.ranked), default=0)
        best = [
            self._run("rank", {"scores": results[f"scores.{place}"]})["ranked"] for place in range(places)
        ]
        return self._several(results["chosen"], live, steps, best)

    def start_steps(self, count: int, wanted: Mapping[int, Wanted]) -> PendingOutput:
        self._require_chosen()
        if not self._live:
            raise RuntimeError("No slot is live: there is nothing to decode.")
        if not self.can_start_steps():
            raise RuntimeError("Alternatives, typical-p and watermarks take one step at a time.")
        if not 1 <= count <= self._info.steps:
            raise ValueError(f"A program takes 1 to {self._info.steps} steps. Given: {count}.")
        self._watch.note_idle_time(self._last)
        live = dict(self._live)
        length = self._length_for(max(each.position for each in live.values()) + count - 1)
        processing = max(each.processing for each in live.values())
        choice = next(place for place, each in enumerate(LOOPED) if processing <= each)
        inputs = {"count": self._send([count]), "choice": self._send([choice])}
        arrays = wanted_arrays(wanted, self._info.batch_size)
        inputs |= {name: self._device.send(array) for name, array in arrays.items()}
        results = self._run(f"steps {self._info.steps}x{length}", inputs)
        return self._several(results["chosen"], live, dict.fromkeys(live, count), [])

    def can_start_steps(self) -> bool:
        return bool(self._info.steps) and all(
            each.processing <= LOOPED[-1] and not each.ranked for each in self._live.values()
        )

    def _several(
        self, chosen: Buffer, live: Mapping[int, LiveSlot], most: Mapping[int, int], best: Sequence[Buffer]
    ) -> PendingOutput:
        """The outcome of a program that chose up to `most` tokens for each slot; how many, is known when it is read."""
        for slot, each in live.items():
            each.position += most[slot]
        self._compilations.look()

        def settle(outcome: ChosenTokens) -> None:
            for slot, each in live.items():
                each.position -= most[slot] - len(outcome[slot])

        wants = {slot: each.ranked for slot, each in live.items()}
        self._last = PendingTokens(self._device, self._watch, chosen, best, wants, settle)
        return self._last

    def release(self, slot: int) -> None:
        # What an unfinished prompt has in the cache stays there, as that of a finished one does.
        if self._live.pop(slot, None) is not None and self._shape.parks:
            self._run("park", {"slot": self._send([slot])})
        self._filling.pop(slot, None)

    def check_health(self) -> None:
        self._watch.check()

    def statistics(self) -> EngineStatistics:
        used, limit = self._device.memory()
        return EngineStatistics(
            compilations_after_warm_up=self._compilations.after_warm_up,
            programs_compiled=len(self._new_programs),
            programs_from_cache=len(self._programs) - len(self._new_programs),
            call_seconds=self._watch.call_seconds(),
            idle_seconds=self._watch.idle_seconds,
            memory_used=used,
            memory_limit=limit,
        )

    def _constrained(self, logits: Buffer, allowed: AllowedTokens) -> Buffer:
        return self._run("constrain", {"logits": logits, "allowed": self._device.send(allowed)})[
            "constrained"
        ]

    def _length_for(self, furthest: int) -> int:
        """The part of the cache that a step has to read, if this is the last position that it needs."""
        # A slot that ran past its end while its last token was being read is clamped on the device too.
        return bucket_for(min(furthest, self._info.max_length - 1) + 1, self._decode_lengths)

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

    def _admit(self, filled: FillingSlot) -> None:
        """The slot holds its prompt but for the last token, and takes part in the steps from now on."""
        position, processing = len(filled.token_ids) - 1, filled.sampling.processing
        inputs = {
            "slot": self._send([filled.slot]),
            "token": self._send([filled.token_ids[-1]]),
            "position": self._send([position]),
            "new_floats": self._device.send(float_parameters(filled.sampling)),
            "new_integers": self._device.send(integer_parameters(filled.sampling)),
        }
        if processing is not Processing.NONE:
            counts = np.bincount(filled.token_ids, minlength=self._info.vocab_size)
            inputs["new_counts"] = self._device.send(counts.astype(np.int32).reshape(1, -1))
        self._run(admission(processing), inputs)
        self._live[filled.slot] = LiveSlot(position, processing, filled.ranked)
        if self._adapters.assign(filled.slot, filled.adapter):
            self._send_adapters()

    def _send(self, values: Sequence[int]) -> Buffer:
        return self._device.send(np.array(values, dtype=np.int32))

    def _send_adapters(self) -> None:
        if self._shape.adapters:
            self._state["adapters"] = self._send(self._adapters.of_slots)

    def _require_chosen(self) -> None:
        if self._unchosen is not None:
            raise RuntimeError("A step was started and not chosen: call choose() before anything else.")
