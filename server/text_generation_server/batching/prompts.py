"""Prompts on their way into the slots: who gets which slot, what it begins with, and one piece after the other."""

import time
from collections.abc import Iterable

from loguru import logger

from text_generation_server.batching.clock import Clock
from text_generation_server.batching.prefixes import PrefixIndex
from text_generation_server.batching.request_state import RequestState, State
from text_generation_server.batching.slots import SlotTable
from text_generation_server.batching.steps_in_flight import PieceInFlight, StepsInFlight
from text_generation_server.engine.contract import Engine

PIECES_IN_FLIGHT = 2
"""Pieces that are started and not read while no request runs: as with steps, the next one is there when one ends."""

WORTH_GATHERING = 512
"""Tokens of prompts that a first step waits for: it costs as much for a few requests as for all."""

SECONDS_BETWEEN_REPORTS = 60.0
"""Of what prefixes saved, in the log; nothing is written while no prompt arrives."""


class Prompts:
    """Fills slots with the prompts of requests that wait."""

    def __init__(self, engine: Engine, slots: SlotTable, in_flight: StepsInFlight) -> None:
        self._engine = engine
        self._adapters = engine.info.adapters
        self._rotary = engine.info.rotary
        self._slots = slots
        self._in_flight = in_flight
        self.prefixes = PrefixIndex(engine.info.batch_size, engine.info.max_length, engine.info.ring)
        self._begun = 0
        self._reported_at = -float("inf")

    def seat(self, waiting: Iterable[RequestState], clock: Clock) -> None:
        """Gives free slots to those who wait, in that order, as far as there are any.

        A request is passed over while another one with the same beginning is being filled: it will find it there.
        """
        for row in waiting:
            free = self._slots.free_slots
            if not free:
                return
            adapter, prompt = self._adapter_of(row), row.token_ids
            variant = (adapter, self._rotary.family(len(prompt)) if self._rotary else 0)
            # A request that is computed again has the logprobs of its prompt.
            scored = row.prompt_logprobs is not None and len(prompt) == len(row.prompt_ids)
            found = self.prefixes.find(prompt, variant)
            if found.more_is_coming and not scored:
                continue
            # Logprobs need the whole prompt to be computed.
            prefix = None if scored else found.prefix
            slot = self.prefixes.choose(free, prefix)
            self._slots.take(row, slot)
            with clock.forward():
                is_live = self._engine.fill(
                    slot,
                    prompt,
                    row.request.sampling,
                    ranked=row.request.top_n_tokens > 0,
                    scored=scored,
                    adapter=adapter,
                    prefix=prefix,
                )
            self.prefixes.begin(slot, prompt, variant, prefix)
            self._begun += 1
            self._report()
            if is_live:
                row.run()

    @property
    def come_first(self) -> bool:
        """Whether steps wait for the prompts that are on their way: they are short, and nobody has a token yet who
        would pause."""
        owners = self._slots.owners()
        if any(owner.has_begun for owner in owners.values()):
            return False
        filling = [slot for slot, owner in owners.items() if owner.state is State.PREFILLING]
        return 0 < sum(map(self.prefixes.missing, filling)) <= WORTH_GATHERING

    def extend(self, clock: Clock) -> None:
        """Starts a piece, if a prompt is not complete. While a request runs no piece follows another without a step,
        but for those that come first."""
        holders = self._slots.owners()
        owners = {slot: owner for slot, owner in holders.items() if owner.state is State.PREFILLING}
        somebody_runs = any(owner.wants_token for owner in holders.values())
        if somebody_runs and self._in_flight.ends_with_piece and not self.come_first:
            return
        if not owners or self._in_flight.pieces >= PIECES_IN_FLIGHT:
            return
        with clock.forward():
            piece = self._engine.extend()
        for slot, held in piece.held.items():
            self.prefixes.extended(slot, held)
        for slot in piece.completed:
            owners[slot].run()
        self._in_flight.add_piece(piece, {slot: owners[slot] for slot in piece.held})

    def read(self, entry: PieceInFlight, clock: Clock) -> None:
        """Waits for a piece."""
        with clock.forward():
            logprobs = entry.pending.read()
        for slot, owner in self._slots.still_live(entry.owners).items():
            if owner.prompt_logprobs is not None:
                owner.prompt_logprobs += logprobs.get(slot, ())

    def release(self, slot: int) -> None:
        """The slot is free; what it holds stays at hand."""
        self.prefixes.released(slot)
        self._engine.release(slot)

    def _report(self) -> None:
        now = time.monotonic()
        if self.prefixes.hits and now - self._reported_at >= SECONDS_BETWEEN_REPORTS:
            self._reported_at = now
            logger.info(
                "Prefixes: {} of {} prompts so far began with what a slot held, {} tokens together",
                self.prefixes.hits,
                self._begun,
                self.prefixes.hit_tokens,
            )

    def _adapter_of(self, row: RequestState) -> str | None:
        named = row.request.adapter_id
        return named if named in self._adapters else None
