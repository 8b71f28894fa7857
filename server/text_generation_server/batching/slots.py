"""A slot's life, the table of slots, and the state of the request that holds one or waits for one."""

import heapq
import math
from collections import deque
from collections.abc import Sequence

from text_generation_server.batching.requests import (
    FinishReason,
    GeneratedText,
    GeneratedToken,
    Generation,
    GenerationRequest,
    PromptTokens,
)
from text_generation_server.engine.contract import RankedTokens
from text_generation_server.grammar.constraint import Constraint
from text_generation_server.text.incremental import IncrementalText, StopSequences
from text_generation_server.text.tokens import TokenDecoder


class RequestState:
    """One request from its acceptance to its last token.

    It first waits for a slot, then holds one, then is finished or has failed; it never holds a second one.

    Attributes:
        arrival: requests with lower numbers came before; who came first gets a slot first.
        slot: the slot that it holds, else None.
        finished: its last token was chosen. It holds no slot any more.
        constraint: holds the output to the request's grammar, if it has one.
        prompt_logprobs: those of the prompt's tokens but the first, until the first token is written.
        tokens_in_flight: steps that were started for it and not read yet.
        undelivered: generations that no prefill or decode has returned yet, oldest first.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt_ids: Sequence[int],
        decoder: TokenDecoder,
        eos_token_ids: frozenset[int],
        arrival: int,
        constraint: Constraint | None = None,
    ) -> None:
        """Raises InvalidRequestError for an empty stop sequence."""
        self.request = request
        self.prompt_ids = prompt_ids
        self.arrival = arrival
        self.constraint = constraint
        self.slot: int | None = None
        self.finished = False
        self.tokens_in_flight = 0
        self.prompt_logprobs: list[float] | None = None
        self.undelivered: deque[Generation] = deque()
        self._decoder = decoder
        self._special_ids = decoder.special_ids
        ignores_eos = request.ignore_eos_token and constraint is None
        self._eos_token_ids = frozenset() if ignores_eos else eos_token_ids
        self._text = IncrementalText(decoder, prompt_ids)
        self._stops = StopSequences(request.stop_sequences)
        self._pieces: list[str] = []
        self._generated_tokens = 0

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def waits(self) -> bool:
        """Has neither a slot nor a token yet, and could use a slot: its grammar, if any, is compiled."""
        ready = self.constraint is None or self.constraint.is_ready
        return ready and self.slot is None and not self.finished

    @property
    def needs_step(self) -> bool:
        """Another step may choose a token for it: not all that it may have are chosen or in flight."""
        return self._generated_tokens + self.tokens_in_flight < self.request.max_new_tokens

    @property
    def failure(self) -> str | None:
        """Why it cannot be served (any more), if so."""
        return None if self.constraint is None else self.constraint.failure

    @property
    def has_news(self) -> bool:
        """A decode has something to tell of it."""
        return bool(self.undelivered) or self.failure is not None

    def count(self, token_id: int) -> None:
        """Takes note of a token; sets `finished` if the id alone tells that it is the last one, maybe `failure`."""
        self._generated_tokens += 1
        if token_id in self._eos_token_ids or self._generated_tokens >= self.request.max_new_tokens:
            self.finished = True
        elif self.constraint is not None:
            self.constraint.advance(token_id)

    def write(self, token_id: int, logprob: float, ranked: RankedTokens | None = None) -> None:
        """Adds the generation of the token that was counted last; sets `finished` if its text tells so.

        An EOS token comes before a stop sequence, and both come before LENGTH. TGI's shard has LENGTH first
        (`utils/tokens.py`). This differs on purpose: since router 3.1.1 LENGTH makes the router ask for more
        of the same text, so that it would continue past an EOS.
        """
        special = token_id in self._special_ids
        piece = self._text.add(token_id)
        reason: FinishReason | None = None
        if token_id in self._eos_token_ids:
            reason = FinishReason.EOS_TOKEN
        elif (end := self._stops.end_in(piece)) is not None:
            piece = piece[:end]
            reason = FinishReason.STOP_SEQUENCE
        elif self._generated_tokens >= self.request.max_new_tokens:
            reason = FinishReason.LENGTH
        if not special:
            self._pieces.append(piece)
        self.finished = reason is not None
        self.undelivered.append(
            Generation(
                request_id=self.id,
                token=GeneratedToken(id=token_id, logprob=logprob, text=piece, is_special=special),
                finished=self._generated_text(reason) if reason else None,
                top_tokens=self._top_tokens(ranked) if ranked else (),
                prompt=self._prompt(),
            )
        )

    def _top_tokens(self, ranked: RankedTokens) -> tuple[GeneratedToken, ...]:
        """The first n, and those that tie with the n-th (TGI's rule)."""
        wanted = self.request.top_n_tokens
        if wanted == 0 or not ranked.logprobs:
            return ()
        last = ranked.logprobs[:wanted][-1]
        return tuple(
            GeneratedToken(token_id, logprob, self._decoder.decode([token_id]), token_id in self._special_ids)
            for token_id, logprob in zip(ranked.token_ids, ranked.logprobs, strict=True)
            if logprob >= last
        )

    def _prompt(self) -> PromptTokens | None:
        """With the first token only."""
        if self.prompt_logprobs is None:
            return None
        logprobs, self.prompt_logprobs = [math.nan, *self.prompt_logprobs], None
        texts = [self._decoder.decode([token_id]) for token_id in self.prompt_ids]
        return PromptTokens(list(self.prompt_ids), logprobs, texts)

    def _generated_text(self, reason: FinishReason) -> GeneratedText:
        sampling = self.request.sampling
        return GeneratedText(
            text="".join(self._pieces),
            generated_tokens=self._generated_tokens,
            finish_reason=reason,
            seed=sampling.seed if sampling.samples else None,
        )


class SlotTable:
    """Who holds which slot. A slot is free, then live for one request, then free again.

    The owner is known by identity, and no request holds a slot twice: so whoever remembers the owners of the
    time when a program was started can tell, when its outcome arrives, whether it still concerns anybody.
    """

    def __init__(self, size: int) -> None:
        self._free = list(range(size))  # sorted, hence a heap
        self._owners: dict[int, RequestState] = {}

    @property
    def free_count(self) -> int:
        return len(self._free)

    def take(self, owner: RequestState) -> int:
        """Gives the lowest free slot to `owner`. RuntimeError if none is free, or if it was live before."""
        if owner.slot is not None or owner.finished:
            raise RuntimeError(
                f"Request {owner.id} holds slot {owner.slot} or has finished: it cannot have a slot."
            )
        if not self._free:
            raise RuntimeError(f"No slot is free for request {owner.id}: all {len(self._owners)} are live.")
        slot = heapq.heappop(self._free)
        self._owners[slot] = owner
        owner.slot = slot
        return slot

    def free(self, owner: RequestState) -> int:
        """Takes the slot back from its owner and returns its number. RuntimeError if it holds none."""
        slot = owner.slot
        if slot is None or self._owners.get(slot) is not owner:
            raise RuntimeError(f"Request {owner.id} holds no slot that could be freed.")
        del self._owners[slot]
        heapq.heappush(self._free, slot)
        owner.slot = None
        return slot

    def owners(self) -> dict[int, RequestState]:
        """The live slots and their owners as of now, by slot; a copy."""
        return dict(sorted(self._owners.items()))

    def still_live(self, owners: dict[int, RequestState]) -> dict[int, RequestState]:
        """Those of earlier `owners` that hold the same slot still."""
        return {slot: owner for slot, owner in owners.items() if self._owners.get(slot) is owner}
