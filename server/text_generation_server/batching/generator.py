"""The generator: prefill, decode, filter and clear batches of requests over the slots of one engine.

It knows requests, text and slots; it knows neither protobuf nor the device. The rules for batches are what
the stock routers count on: a prefill answers for its new requests only, a decode merges the batches that it
names, requests may be missing from an answer, and no answer may name a request that was forgotten.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import count

from text_generation_server.batching.clock import Clock
from text_generation_server.batching.drafts import Drafts
from text_generation_server.batching.prefixes import PrefixIndex
from text_generation_server.batching.prompts import PIECES_IN_FLIGHT, Prompts
from text_generation_server.batching.request_state import RequestState, State
from text_generation_server.batching.requests import BatchOutcome, CachedBatch, GenerationRequest
from text_generation_server.batching.slots import SlotTable
from text_generation_server.batching.speculation import Speculation
from text_generation_server.batching.step_times import StepKind, StepTimes
from text_generation_server.batching.steps_ahead import StepsAhead
from text_generation_server.batching.steps_in_flight import PieceInFlight, StepsInFlight
from text_generation_server.engine.contract import MAX_RANKED, Engine, PendingOutput, Wanted
from text_generation_server.errors import InvalidRequestError, UnknownBatchError, quoted, require
from text_generation_server.grammar.constraint import Constraint, wait_for_all, wait_for_one
from text_generation_server.grammar.masks import masks_of_drafts, masks_of_step
from text_generation_server.grammar.pool import CompilationPool
from text_generation_server.grammar.vocabulary import Vocabulary
from text_generation_server.text.prompt import PromptEncoder
from text_generation_server.text.tokenizer import ModelTokenizer

GRAMMAR_TIMEOUT = 0.05
"""Seconds that a prefill, or a decode with nothing else to do, waits for grammars that are being compiled."""

STEPS_IN_FLIGHT = 2
"""Decode steps that are started and not read: one runs, and the next one is there when it ends."""


class Generator:
    """Serves batches of requests; rows of a batch are independent and come and go at any time.

    The device never waits for the host: STEPS_IN_FLIGHT steps are started ahead, and while they run, the text of the
    step before is made. Requests may join and leave meanwhile, since a step's outcome is only given to those who hold
    the same slot as when it was started. The masks of a grammar follow from the last token: so while a request with
    one runs, one step is started ahead and its model runs, but it chooses only after the step before was read.

    A step may verify drafts, see `Speculation`. These follow from the last token, so no step is in flight when it is
    started, and none is started before it was read. With a grammar, the masks behind each draft are made before it.

    One program may take several steps, see `StepsAhead`: if no request has a grammar or waits for anything. Which
    requests end in it is known when it was read, so nothing else is in flight with it.

    Prompts are computed in pieces. Each call takes one along: so running requests go on while a long prompt is on its
    way, and a request whose prompt is not complete is left out of the answer.

    Each step advances every live slot. If a decode names only some of the batches, the tokens of the others
    are kept, and their own next decode delivers them together.

    An error of the engine is raised as it is. The generator is of no use after it: nobody can tell which tokens the
    device has computed.

    Not thread-safe, but for `steps_in_flight` and `count_requests`.
    """

    def __init__(self, engine: Engine, tokenizer: ModelTokenizer, eos_token_ids: frozenset[int]) -> None:
        """`eos_token_ids` end the output of every request that does not ignore them."""
        info = engine.info
        self._engine = engine
        self._info = info
        self._tokenizer = tokenizer
        self._encoder = PromptEncoder(tokenizer, info.max_length, info.vocab_size)
        self._eos_token_ids = eos_token_ids
        self._grammars = CompilationPool(Vocabulary(tokenizer, info.vocab_size, eos_token_ids))
        self._slots = SlotTable(info.batch_size)
        self._batches: dict[int, list[RequestState]] = {}
        self._arrivals = count()
        self._in_flight = StepsInFlight()
        self._prompts = Prompts(engine, self._slots, self._in_flight)
        self._times = StepTimes()
        self._speculation = Speculation(info.drafts, info.max_length, self._times)
        self._steps_ahead = StepsAhead(info.steps, self._times)

    def prefill(self, batch_id: int, requests: Sequence[GenerationRequest]) -> BatchOutcome:
        """Accepts new requests under `batch_id`, and starts a piece of their prompts.

        Returns the first tokens of those whose prompts are complete with it; none while other requests run, which
        would have to wait for them. The others are listed in the batch, and get theirs in a later decode.

        A batch of the same id, and requests of the same ids, are taken for gone: routers that start again count from 0
        again, and do not always clear before.

        A request that cannot be served is among the outcome's failures, and the others are served.

        Raises InvalidRequestError, and changes nothing, if there are no requests, or two with the same id.
        """
        clock = Clock()
        self._times.interrupted()
        newcomers, failures = self._accepted(requests)
        self.clear(batch_id)
        self._forget_requests({request.id for request in requests})
        # Most grammars are compiled within that time, and a bad one is refused at once.
        wait_for_all(constraints_of(newcomers), GRAMMAR_TIMEOUT)
        # Those who wait came first, so free slots are theirs.
        waiting = sum(row.state is State.WAITING for rows in self._batches.values() for row in rows)
        others_run = any(row.state is State.RUNNING for rows in self._batches.values() for row in rows)
        self._batches[batch_id] = newcomers
        ready = [newcomer for newcomer in newcomers if newcomer.state is State.WAITING]
        self._prompts.seat(ready[: max(0, len(self._slots.free_slots) - waiting)], clock)
        self._start_ahead(clock)
        if not others_run:
            self._read_first_tokens(newcomers, clock)
            self._start_ahead(clock)
        return self._outcome(batch_id, clock, failures)

    def decode(self, batch_ids: Sequence[int]) -> BatchOutcome:
        """Merges the batches into the first one and returns the next tokens, one generation for each request.

        A request may be left out: it waits for a slot, its prompt is not complete, or it joined after the step that
        was read was started.

        Raises UnknownBatchError, and changes nothing, if one of the batches is not held.
        """
        clock = Clock()
        if not batch_ids:
            raise InvalidRequestError("`batches` must name at least 1 batch. Given: none.")
        batch_id, rows = self._merged(batch_ids)
        self._advance(rows, clock)
        return self._outcome(batch_id, clock, {})

    def filter(self, batch_id: int, request_ids_to_keep: Sequence[int]) -> CachedBatch | None:
        """Forgets the batch's other requests; None if none is left. UnknownBatchError if it is not held."""
        if batch_id not in self._batches:
            raise UnknownBatchError(batch_id)
        keep = frozenset(request_ids_to_keep)
        self._keep(batch_id, [row for row in self._batches[batch_id] if row.id in keep])
        return self._cached_batch(batch_id)

    def clear(self, batch_id: int | None) -> None:
        """Forgets a batch, or all of them if None. A batch that is not held is no error."""
        for held in [batch_id] if batch_id is not None else list(self._batches):
            if held in self._batches:
                self._keep(held, [])

    @property
    def steps_in_flight(self) -> int:
        """May be asked from any thread."""
        return self._in_flight.steps

    @property
    def prefixes(self) -> PrefixIndex:
        """What the slots hold; its counters may be read from any thread."""
        return self._prompts.prefixes

    @property
    def steps_ahead(self) -> StepsAhead:
        """Its counter may be read from any thread."""
        return self._steps_ahead

    @property
    def speculation(self) -> Speculation:
        """Its counters may be read from any thread."""
        return self._speculation

    def count_requests(self) -> dict[State, int]:
        """How many requests are in each state. May be asked from any thread; then it may miss what changes."""
        counts = dict.fromkeys(State, 0)
        for rows in list(self._batches.values()):
            for row in rows:
                counts[row.state] += 1
        return counts

    def _accepted(self, requests: Sequence[GenerationRequest]) -> tuple[list[RequestState], dict[int, str]]:
        """Those that can be served, and by id why the others cannot."""
        if not requests:
            raise InvalidRequestError("`requests` must have at least 1 request. Given: none.")
        ids = [request.id for request in requests]
        if len(set(ids)) != len(ids):
            raise InvalidRequestError(f"`requests` must have ids that differ. Given: {quoted(str(ids))}")
        accepted: list[RequestState] = []
        failures: dict[int, str] = {}
        for request in requests:
            try:
                accepted.append(self._new_state(request))
            except InvalidRequestError as error:
                failures[request.id] = str(error)
        return accepted, failures

    def _new_state(self, request: GenerationRequest) -> RequestState:
        allowed = f"0 (off) to {MAX_RANKED}"
        require(0 <= request.top_n_tokens <= MAX_RANKED, "top_n_tokens", request.top_n_tokens, allowed)
        prompt_ids = self._encoder.encode(request)
        constraint = self._grammars.constraint(request.grammar) if request.grammar else None
        return RequestState(
            request,
            prompt_ids,
            self._tokenizer,
            self._eos_token_ids,
            next(self._arrivals),
            constraint,
            self._info.rotary.recomputed_at(len(prompt_ids)) if self._info.rotary else None,
            Drafts(prompt_ids) if self._speculation.is_on else None,
        )

    def _merged(self, batch_ids: Sequence[int]) -> tuple[int, list[RequestState]]:
        """Puts all rows under the first id; the other ids are forgotten, as the router does."""
        distinct_ids = list(dict.fromkeys(batch_ids))
        for batch_id in distinct_ids:
            if batch_id not in self._batches:
                raise UnknownBatchError(batch_id)
        rows = [row for batch_id in distinct_ids for row in self._batches.pop(batch_id)]
        self._batches[distinct_ids[0]] = rows
        return distinct_ids[0], rows

    def _advance(self, rows: list[RequestState], clock: Clock) -> None:
        """Reads one step, unless every row has something to deliver; more if it told rows that run nothing.

        Rows that all wait for their grammars have nothing to step for: the router asks again at once, and may
        bring others in between.
        """
        active = (State.WAITING, State.PREFILLING, State.RUNNING)
        if not any(row.has_undelivered or row.state in active for row in rows):
            wait_for_one(constraints_of(rows), GRAMMAR_TIMEOUT)
        self._fill(rows, clock)
        if all(row.has_undelivered for row in rows):
            return
        self._read_step(clock)
        while not any(row.has_undelivered for row in rows) and any(
            row.state is State.RUNNING for row in rows
        ):
            self._fill(rows, clock)
            self._read_step(clock)
        self._fill(rows, clock)

    def _fill(self, rows: list[RequestState], clock: Clock) -> None:
        """Gives free slots to those of `rows` who wait, and starts pieces and steps ahead."""
        waiting = sorted((row for row in rows if row.state is State.WAITING), key=lambda row: row.arrival)
        self._prompts.seat(waiting, clock)
        self._start_ahead(clock)

    def _start_ahead(self, clock: Clock) -> None:
        """Starts as many steps as may be in flight and have somebody to choose for, each with a piece before it.

        If a step with drafts would pay, or several without the host, it waits until nothing is in flight.
        """
        while self._in_flight.steps < STEPS_IN_FLIGHT and not self._in_flight.ends_with_several:
            self._prompts.extend(clock)
            owners = self._owners_of_next_step()
            if not owners or self._needs_masks():
                return
            drafts = self._speculation.drafts(owners)
            several = 1 if drafts else self._steps_without_host(owners)
            if (drafts or several > 1) and self._in_flight.steps:
                return
            if drafts:
                self._verify(drafts, owners, clock)
                continue
            if several > 1:
                self._start_several(several, owners, clock)
                continue
            started = time.monotonic()
            with clock.forward():
                pending = self._engine.start_step().choose()
            self._in_flight.add_step(pending, owners, started)

    def _steps_without_host(self, owners: dict[int, RequestState]) -> int:
        """How many steps the next program should take."""
        if not self._steps_ahead.is_on or not self._engine.can_start_steps() or self._in_flight.pieces:
            return 1
        # Whoever waits for a slot, a grammar or a piece should not wait longer.
        busy = (State.PARKED, State.WAITING, State.PREFILLING)
        if any(row.state in busy for rows in self._batches.values() for row in rows):
            return 1
        return self._steps_ahead.count(owners.values())

    def _start_several(self, count: int, owners: dict[int, RequestState], clock: Clock) -> None:
        wanted = {slot: Wanted(owner.tokens_left, owner.eos_token_ids) for slot, owner in owners.items()}
        started = time.monotonic()
        with clock.forward():
            pending = self._engine.start_steps(count, wanted)
        self._in_flight.add_step(pending, owners, started, StepKind.LOOPED)

    def _needs_masks(self) -> bool:
        owners = self._slots.owners().values()
        return any(owner.constraint is not None and owner.state is State.RUNNING for owner in owners)

    def _owners_of_next_step(self) -> dict[int, RequestState]:
        """None while prompts come first."""
        if self._prompts.come_first:
            return {}
        return {slot: owner for slot, owner in self._slots.owners().items() if owner.wants_token}

    def _read_first_tokens(self, newcomers: list[RequestState], clock: Clock) -> None:
        """Reads until each of those whose prompts are complete has a token."""
        while any(row.state is State.RUNNING and not row.has_undelivered for row in newcomers):
            self._start_ahead(clock)
            self._read_step(clock)

    def _read_step(self, clock: Clock) -> None:
        """Reads up to the next step, pieces before it included; with masks, all that is in flight.

        Without a step it waits for pieces until only the last one is in flight.
        """
        if self._needs_masks():
            self._start_with_masks(clock)
        elif self._in_flight.steps:
            while not self._read_next(clock):
                pass
        else:
            while len(self._in_flight) >= PIECES_IN_FLIGHT:
                self._read_next(clock)
        self._release_ended()

    def _release_ended(self) -> None:
        for owner in self._slots.owners().values():
            if owner.state not in (State.PREFILLING, State.RUNNING):
                self._release(owner)

    def _start_with_masks(self, clock: Clock) -> None:
        """Starts a step; while its model runs, reads all that is in flight and makes the masks.

        If a step with drafts would pay, all is read before.
        """
        chose_several = self._in_flight.ends_with_several
        self._prompts.extend(clock)
        owners = self._owners_of_next_step()
        if chose_several or self._speculation.drafts(owners):
            while len(self._in_flight):
                self._read_next(clock)
            self._release_ended()
            owners = self._owners_of_next_step()
            drafts = self._speculation.drafts(owners)
            if drafts:
                self._verify(drafts, owners, clock)
                return
        step, started = None, time.monotonic()
        if owners:
            with clock.forward():
                step = self._engine.start_step()
        while len(self._in_flight):
            self._read_next(clock)
        if step is None:
            return
        running = {slot: owner for slot, owner in owners.items() if owner.state is State.RUNNING}
        masks = masks_of_step(
            {slot: owner.constraint for slot, owner in running.items()}, self._info.batch_size
        )
        with clock.forward():
            pending = step.choose(masks)
        self._add_for_those_who_run(pending, running, started)

    def _verify(self, drafts: dict[int, list[int]], owners: dict[int, RequestState], clock: Clock) -> None:
        """Starts a step with drafts; nothing may be in flight that chooses tokens for their owners."""
        constraints = {slot: owner.constraint for slot, owner in owners.items()}
        started = time.monotonic()
        kept, masks = masks_of_drafts(constraints, drafts, self._info.batch_size)
        with clock.forward():
            pending = self._engine.verify(kept, masks)
        drafted = {slot: len(tokens) for slot, tokens in kept.items()}
        self._add_for_those_who_run(pending, owners, started, StepKind.VERIFYING, drafted)

    def _add_for_those_who_run(
        self,
        pending: PendingOutput,
        owners: dict[int, RequestState],
        started: float,
        kind: StepKind = StepKind.PLAIN,
        drafted: dict[int, int] | None = None,
    ) -> None:
        """Takes in a step for those of its owners who did not fail when its masks were made, if there are any."""
        running = {slot: owner for slot, owner in owners.items() if owner.state is State.RUNNING}
        if running:
            self._in_flight.add_step(pending, running, started, kind, drafted)

    def _read_next(self, clock: Clock) -> bool:
        """Reads the oldest program in flight and takes its tokens in; True if it was a step."""
        program = self._in_flight.pop()
        if isinstance(program, PieceInFlight):
            self._prompts.read(program, clock)
            self._times.interrupted()
            return False
        with clock.forward():
            chosen = program.pending.read()
        steps = max(map(len, chosen.values())) if program.kind is StepKind.LOOPED else 1
        self._times.read(program.kind, program.started, time.monotonic(), steps)
        if program.kind is StepKind.LOOPED:
            self._steps_ahead.taken += steps
        for slot, owner in self._slots.still_live(program.owners).items():
            tokens = chosen.get(slot, ())
            if slot in program.drafted:
                self._speculation.count(owner, program.drafted[slot], len(tokens) - 1)
            for token in tokens:
                self._prompts.prefixes.chose(slot, token.token_id)
            owner.add(tokens)
        return True

    def _outcome(self, batch_id: int, clock: Clock, failures: dict[int, str]) -> BatchOutcome:
        generations = []
        left: list[RequestState] = []
        for row in self._batches[batch_id]:
            generation = row.deliver()
            if generation is not None:
                generations.append(generation)
            elif row.failure is not None:
                failures[row.id] = row.failure
                continue
            if row.state is not State.FINISHED:
                left.append(row)
        self._keep(batch_id, left)
        return BatchOutcome(generations, self._cached_batch(batch_id), clock.timings(), failures)

    def _cached_batch(self, batch_id: int) -> CachedBatch | None:
        if batch_id not in self._batches:
            return None
        rows = self._batches[batch_id]
        slots = min(self._info.batch_size, sum(row.state is not State.FINISHED for row in rows))
        return CachedBatch(batch_id, [row.id for row in rows], slots * self._info.max_length)

    def _keep(self, batch_id: int, rows: list[RequestState]) -> None:
        """Makes `rows` the batch's rows and frees the others' slots; a batch without rows is not held."""
        kept = set(rows)
        gone = [row for row in self._batches[batch_id] if row not in kept]
        for row in gone:
            row.cancel()
            self._release(row)
        if gone:
            self._in_flight.drop_for_nobody(self._slots)
        if rows:
            self._batches[batch_id] = rows
        else:
            del self._batches[batch_id]

    def _forget_requests(self, request_ids: set[int]) -> None:
        for batch_id, rows in list(self._batches.items()):
            self._keep(batch_id, [row for row in rows if row.id not in request_ids])

    def _release(self, row: RequestState) -> None:
        if row.slot is not None:
            self._prompts.release(self._slots.free(row))
            self._in_flight.forget(row)


def constraints_of(rows: Iterable[RequestState]) -> list[Constraint]:
    return [row.constraint for row in rows if row.constraint is not None]
