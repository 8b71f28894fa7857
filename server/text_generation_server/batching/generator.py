"""The generator: prefill, decode, filter and clear batches of requests over the slots of one engine.

It knows requests, text and slots; it knows neither protobuf nor the device. The rules for batches are what
the stock routers count on: a prefill answers for its new requests only, a decode merges the batches that it
names, requests may be missing from an answer, and no answer may name a request that was forgotten.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count

from text_generation_server.batching.requests import CachedBatch, GenerationRequest, StepOutcome, StepTimings
from text_generation_server.batching.slots import RequestState, SlotTable
from text_generation_server.batching.steps import OwnedToken, StepInFlight, owned_tokens
from text_generation_server.engine.contract import (
    MAX_RANKED,
    ChosenTokens,
    Engine,
    PendingOutput,
)
from text_generation_server.errors import InvalidRequestError, UnknownBatchError
from text_generation_server.grammar.compiler import GrammarCompiler
from text_generation_server.grammar.constraint import Constraint, wait_for_all, wait_for_one
from text_generation_server.grammar.masks import masks_of_step
from text_generation_server.grammar.vocabulary import Vocabulary
from text_generation_server.sampling.parameters import require
from text_generation_server.text.tokenizer import ModelTokenizer
from text_generation_server.text.tokens import PromptEncoder, TokenDecoder

PATIENCE = 0.05
"""Seconds that a prefill, or a decode with nothing else to do, waits for grammars that are being compiled."""


STEPS_IN_FLIGHT = 2
"""Steps that are started before the oldest of them is read. One that is running and one behind it keep the device busy;
more would be computed in vain for rows that end by their text."""


def constraints_of(rows: Iterable[RequestState]) -> list[Constraint]:
    return [row.constraint for row in rows if row.constraint is not None]


class Generator:
    """Serves batches of requests; rows of a batch are independent and come and go at any time.

    The device never waits for the host: STEPS_IN_FLIGHT steps are started before the oldest of them is read, and the
    text of a step is made while the next ones run. Requests may join and leave meanwhile, since a step's outcome is
    only given to the rows that hold the same slot as when the step was started. While a row has a grammar, each step
    needs the token of the one before for its masks: then one step is in flight, and the masks are made while its model
    runs.

    A row of which all remaining tokens are in flight takes no part in further steps.

    An error of the engine leaves the generator in a state that nobody may use: the process ends.

    Each step advances every live slot. If a decode names only some of the batches, the tokens of the others
    are kept and delivered by their own next decodes, one at a time.

    Not thread-safe, but for `liveness`.
    """

    def __init__(self, engine: Engine, tokenizer: ModelTokenizer, eos_token_ids: frozenset[int]) -> None:
        """`eos_token_ids` end the output of every request that does not ignore them."""
        self._engine = engine
        self._max_length = engine.info.max_length
        self._batch_size = engine.info.batch_size
        self._decoder = TokenDecoder(tokenizer)
        self._encoder = PromptEncoder(tokenizer, self._max_length, engine.info.vocab_size)
        self._eos_token_ids = eos_token_ids
        self._grammars = GrammarCompiler(Vocabulary(tokenizer, engine.info.vocab_size, eos_token_ids))
        self._slots = SlotTable(self._batch_size)
        self._batches: dict[int, list[RequestState]] = {}
        self._arrivals = count()
        self._steps: deque[StepInFlight] = deque()
        self._forward_ns = 0

    def prefill(self, batch_id: int, requests: Sequence[GenerationRequest]) -> StepOutcome:
        """Accepts new requests under `batch_id` and returns the first tokens of those that got a slot.

        The others wait, are listed in the batch, and get theirs in a later decode. A batch of the same id,
        and requests of the same ids, are taken for gone: routers that start again count from 0 again, and
        do not always clear before.

        A request that cannot be served is among the outcome's failures, and the others are served.

        Raises InvalidRequestError, and changes nothing, if there are no requests, or two with the same id. An error
        of the engine is raised as it is.
        """
        started_ns = self._start_clock()
        newcomers, failures = self._accepted(requests)
        self.clear(batch_id)
        self._forget_requests({request.id for request in requests})
        # Most grammars are compiled within that time, and a bad one is refused at once.
        wait_for_all(constraints_of(newcomers), PATIENCE)
        # Those who wait came first, so free slots are theirs.
        waiting = sum(row.waits for rows in self._batches.values() for row in rows)
        self._batches[batch_id] = newcomers
        ready = [newcomer for newcomer in newcomers if newcomer.waits]
        self._write(self._seat(ready[: max(0, self._slots.free_count - waiting)]))
        return self._outcome(batch_id, started_ns, failures)

    def decode(self, batch_ids: Sequence[int]) -> StepOutcome:
        """Merges the batches into the first one and returns the next tokens, at most one for each request.

        A request may be left out: it waits for a slot, or it joined after the running step was started.

        Raises UnknownBatchError, and changes nothing, if one of the batches is not held. An error of the engine is
        raised as it is.
        """
        started_ns = self._start_clock()
        if not batch_ids:
            raise InvalidRequestError("`batches` must name at least 1 batch. Given: none.")
        batch_id, rows = self._merged(batch_ids)
        self._advance_until_delivery(rows)
        return self._outcome(batch_id, started_ns, {})

    def filter(self, batch_id: int, request_ids_to_keep: Sequence[int]) -> CachedBatch | None:
        """Forgets the batch's other requests; None if none is left. UnknownBatchError if it is not held."""
        if batch_id not in self._batches:
            raise UnknownBatchError(batch_id)
        keep = frozenset(request_ids_to_keep)
        self._keep(batch_id, [row for row in self._batches[batch_id] if row.id in keep])
        return self._cached_batch(batch_id)

    def clear(self, batch_id: int | None) -> None:
        """Forgets a batch, or all of them if None. A batch that is not held is no error."""
        self._forget_batches([batch_id] if batch_id is not None else list(self._batches))

    def liveness(self) -> None:
        """Raises RuntimeError if the engine is broken. May be called from any thread."""
        self._engine.check_health()

    def _accepted(self, requests: Sequence[GenerationRequest]) -> tuple[list[RequestState], dict[int, str]]:
        """Those that can be served, and by id why the others cannot."""
        if not requests:
            raise InvalidRequestError("`requests` must have at least 1 request. Given: none.")
        ids = [request.id for request in requests]
        if len(set(ids)) != len(ids):
            raise InvalidRequestError(f"`requests` must have ids that differ. Given: {ids}")
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
            request, prompt_ids, self._decoder, self._eos_token_ids, next(self._arrivals), constraint
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

    def _advance_until_delivery(self, rows: list[RequestState]) -> None:
        """Makes one step, unless every row has news; more if it told these rows nothing.

        Rows that all wait for their grammars have nothing to step for: the router asks again at once, and may
        bring others in between.
        """
        if not any(row.has_news or row.waits or row.slot is not None for row in rows):
            wait_for_one(constraints_of(rows), PATIENCE)
        if all(row.has_news for row in rows):
            return
        self._advance(rows)
        while not any(row.has_news for row in rows) and any(row.slot is not None for row in rows):
            self._advance(rows)

    def _advance(self, rows: list[RequestState]) -> None:
        """Reads one step, seats those of `rows` that wait, starts the next steps, and then makes the text."""
        chosen = self._read_step()
        waiting = sorted((row for row in rows if row.waits), key=lambda row: row.arrival)
        chosen += self._seat(waiting[: self._slots.free_count])
        self._start_steps()
        self._write(chosen)

    def _start_steps(self) -> None:
        """Starts steps until enough are in flight, or no row needs another one."""
        while owners := {slot: row for slot, row in self._slots.owners().items() if row.needs_step}:
            has_grammar = any(row.constraint is not None for row in owners.values())
            if len(self._steps) >= (1 if has_grammar else STEPS_IN_FLIGHT):
                return
            self._start_step(owners)

    def _start_step(self, owners: dict[int, RequestState]) -> None:
        constraints = {slot: owner.constraint for slot, owner in owners.items()}
        with self._device_time():
            step = self._engine.start_step()
            make_masks = masks_of_step(constraints, self._batch_size)
            pending = step.choose(None if make_masks is None else make_masks())
        self._steps.append(StepInFlight(pending, owners))
        for slot, owner in owners.items():
            owner.tokens_in_flight += 1
            if owner.failure is not None:
                self._release(owner)
            elif not owner.needs_step:
                # The row keeps its slot until its last token was read; the device need not go on for it.
                self._engine.release(slot)

    def _read_step(self) -> list[OwnedToken]:
        """The tokens of the oldest step in flight that still concerns a row; none if no row needs a step."""
        while True:
            self._start_steps()
            if not self._steps:
                return []
            step = self._steps.popleft()
            owners = self._slots.still_live(step.owners)
            if owners:
                break
        tokens = self._read(step.pending)
        for owner in owners.values():
            owner.tokens_in_flight -= 1
        return self._counted(owned_tokens(owners, tokens))

    def _seat(self, waiting: Sequence[RequestState]) -> list[OwnedToken]:
        """Gives slots to requests and returns their first tokens. All programs start before one is read."""
        started: list[tuple[RequestState, int, PendingOutput]] = []
        with self._device_time():
            for row in waiting:
                if row.request.prompt_logprobs:
                    row.prompt_logprobs = self._engine.score_prompt(row.prompt_ids, self._adapter(row))
            for row in waiting:
                allowed = None if row.constraint is None else row.constraint.allowed()
                if row.failure is not None:
                    continue
                slot = self._slots.take(row)
                pending = self._engine.prefill(
                    slot,
                    row.prompt_ids,
                    row.request.sampling,
                    ranked=row.request.top_n_tokens > 0,
                    adapter=self._adapter(row),
                    allowed=allowed,
                )
                started.append((row, slot, pending))
        first_tokens = [owned_tokens({slot: row}, self._read(pending)) for row, slot, pending in started]
        return self._counted(chain.from_iterable(first_tokens))

    def _adapter(self, row: RequestState) -> str | None:
        named = row.request.adapter_id
        return named if named in self._engine.info.adapters else None

    def _counted(self, chosen: Iterable[OwnedToken]) -> list[OwnedToken]:
        """Frees the slots of those who are finished by the token alone, or fail, so that no step runs for them."""
        counted = list(chosen)
        for token in counted:
            token.owner.count(token.id)
            if token.owner.finished or token.owner.failure is not None:
                self._release(token.owner)
        return counted

    def _write(self, chosen: Sequence[OwnedToken]) -> None:
        """Makes the text; frees the slots of those who are finished by a stop sequence."""
        for token in chosen:
            token.owner.write(token.id, token.logprob, token.ranked)
            if token.owner.finished:
                self._release(token.owner)

    def _outcome(self, batch_id: int, started_ns: int, failures: dict[int, str]) -> StepOutcome:
        rows = self._batches[batch_id]
        failures |= {row.id: row.failure for row in rows if row.failure is not None and not row.undelivered}
        generations = [row.undelivered.popleft() for row in rows if row.undelivered]
        unfinished = [row for row in rows if not row.finished or row.undelivered]
        self._keep(batch_id, [row for row in unfinished if row.id not in failures])
        total_ns = time.perf_counter_ns() - started_ns
        timings = StepTimings(self._forward_ns, total_ns - self._forward_ns, total_ns)
        return StepOutcome(generations, self._cached_batch(batch_id), timings, failures)

    def _cached_batch(self, batch_id: int) -> CachedBatch | None:
        if batch_id not in self._batches:
            return None
        rows = self._batches[batch_id]
        slots = min(self._batch_size, sum(not row.finished for row in rows))
        return CachedBatch(batch_id, [row.id for row in rows], slots * self._max_length)

    def _keep(self, batch_id: int, rows: list[RequestState]) -> None:
        """Makes `rows` the batch's rows and frees the others' slots; a batch without rows is not held."""
        kept = set(rows)
        for row in self._batches[batch_id]:
            if row not in kept:
                self._release(row)
        if rows:
            self._batches[batch_id] = rows
        else:
            del self._batches[batch_id]

    def _forget_batches(self, batch_ids: Iterable[int]) -> None:
        for batch_id in batch_ids:
            if batch_id in self._batches:
                self._keep(batch_id, [])

    def _forget_requests(self, request_ids: set[int]) -> None:
        for batch_id, rows in list(self._batches.items()):
            self._keep(batch_id, [row for row in rows if row.id not in request_ids])

    def _release(self, row: RequestState) -> None:
        if row.slot is not None:
            self._engine.release(self._slots.free(row))

    def _read(self, pending: PendingOutput) -> ChosenTokens:
        with self._device_time():
            return pending.read()

    def _start_clock(self) -> int:
        self._forward_ns = 0
        return time.perf_counter_ns()

    @contextmanager
    def _device_time(self) -> Iterator[None]:
        started_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._forward_ns += time.perf_counter_ns() - started_ns
