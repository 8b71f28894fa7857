"""The state of one request, from its acceptance to its end."""

import math
from collections.abc import Sequence
from enum import Enum

from text_generation_server.batching.drafts import Drafts
from text_generation_server.batching.requests import (
    FinishReason,
    GeneratedText,
    GeneratedToken,
    Generation,
    GenerationRequest,
    PromptTokens,
)
from text_generation_server.engine.contract import ChosenToken, RankedTokens
from text_generation_server.grammar.constraint import Constraint
from text_generation_server.text.incremental import IncrementalText
from text_generation_server.text.stop_sequences import StopSequences
from text_generation_server.text.tokenizer import ModelTokenizer


class State(Enum):
    """Where a request is in its life; it only ever goes forwards, but for one that has to be computed again, which
    waits once more, see `RotaryLengths`.

    PARKED: its grammar is being compiled. WAITING: it could use a slot. PREFILLING: it holds one, and its prompt is not
    complete there. RUNNING: each step chooses a token for it. FINISHED: its last
    token was chosen. FAILED: its output cannot follow its grammar. CANCELLED: the router forgot it.
    """

    PARKED = "parked"
    WAITING = "waiting"
    PREFILLING = "prefilling"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestState:
    """One request: its place among the others, its output so far, and what of that no answer had yet.

    It holds one slot at most.

    Attributes:
        arrival: requests with lower numbers came before; who came first gets a slot first.
        slot: the slot that it holds, else None.
        constraint: holds the output to the request's grammar, if it has one.
        prompt_logprobs: those of the prompt's tokens but the first, as far as they are known, until they are
            delivered; None if it did not ask for them.
        in_flight: steps that were started and will choose a token for it, or several.
        drafted, accepted: drafts of it that were verified, and chosen.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt_ids: Sequence[int],
        tokenizer: ModelTokenizer,
        eos_token_ids: frozenset[int],
        arrival: int,
        constraint: Constraint | None = None,
        recomputed_at: int | None = None,
        drafts: Drafts | None = None,
    ) -> None:
        """
        Args:
            drafts: of its prompt; None: it never has any.
            recomputed_at: with so many tokens it gives up what is computed, and waits to be computed again.

        Raises InvalidRequestError for an empty stop sequence.
        """
        self.request = request
        self.prompt_ids = prompt_ids
        self.arrival = arrival
        self.constraint = constraint
        self.slot: int | None = None
        self.prompt_logprobs: list[float] | None = [] if request.prompt_logprobs else None
        self.in_flight = 0
        self.drafted = 0
        self.accepted = 0
        self._was_seated = False
        self._is_prompt_complete = False
        self._was_cancelled = False
        self._finished: GeneratedText | None = None
        self._tokenizer = tokenizer
        ignores_eos = request.ignore_eos_token and constraint is None
        self._eos_token_ids = frozenset() if ignores_eos else eos_token_ids
        self._text = IncrementalText(tokenizer, prompt_ids)
        self._stops = StopSequences(request.stop_sequences)
        self._pieces: list[str] = []
        self._generated: list[int] = []
        self._recomputed_at = recomputed_at
        self._drafts = drafts
        self._tokens: list[GeneratedToken] = []
        self._top_tokens: list[tuple[GeneratedToken, ...]] = []

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def token_ids(self) -> Sequence[int]:
        """The prompt and the output so far."""
        return [*self.prompt_ids, *self._generated]

    @property
    def state(self) -> State:
        if self._was_cancelled:
            return State.CANCELLED
        if self._finished is not None:
            return State.FINISHED
        if self.failure is not None:
            return State.FAILED
        if self._was_seated:
            return State.RUNNING if self._is_prompt_complete else State.PREFILLING
        is_ready = self.constraint is None or self.constraint.is_ready
        return State.WAITING if is_ready else State.PARKED

    @property
    def failure(self) -> str | None:
        """Why it cannot be served (any more), if so."""
        return None if self.constraint is None else self.constraint.failure

    @property
    def has_undelivered(self) -> bool:
        """There are tokens, or a failure, that no answer had yet."""
        return bool(self._tokens) or self.failure is not None

    @property
    def wants_token(self) -> bool:
        """It runs, and `max_new_tokens` asks for more than it has and what is in flight will give."""
        enough = len(self._generated) + self.in_flight >= self.request.max_new_tokens
        return not enough and self.state is State.RUNNING

    @property
    def has_begun(self) -> bool:
        """It has a token, or one is on its way."""
        return bool(self._generated or self.in_flight)

    @property
    def tokens_left(self) -> int:
        """That `max_new_tokens` still asks for."""
        return self.request.max_new_tokens - len(self._generated)

    @property
    def tokens_until_recomputed(self) -> int | None:
        """After how many more it is computed again; None if it is not."""
        if self._recomputed_at is None:
            return None
        left = self._recomputed_at - len(self.prompt_ids) - len(self._generated)
        return left if left > 0 else None

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Those that end its output; none if it ignores them."""
        return self._eos_token_ids

    def propose(self, most: int, max_length: int) -> list[int]:
        """Up to `most` tokens that may come next, without those behind which it may have no other token.

        `max_length`: tokens of a slot.
        """
        if self._drafts is None:
            return []
        room = max_length - len(self.prompt_ids) - len(self._generated)
        proposed = self._drafts.propose(max(0, min(most, self.tokens_left - 1, room - 1)))
        return proposed if self.constraint is None else proposed[: self.constraint.agrees_with(proposed)]

    def expected(self, count: int) -> float:
        """How many of so many proposed tokens are likely to be chosen."""
        return 0.0 if self._drafts is None else self._drafts.expected(count)

    def seat(self, slot: int) -> None:
        """It holds this slot from now on."""
        self.slot = slot
        self._was_seated = True

    def run(self) -> None:
        """Its prompt is complete in its slot."""
        self._is_prompt_complete = True

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._was_cancelled = True
        if self.constraint is not None:
            self.constraint.close()

    def add(self, chosen: Sequence[ChosenToken]) -> None:
        """Takes in the tokens of one program; those after its last one are dropped."""
        for token in chosen:
            if self.state is not State.RUNNING:
                return
            self._add(token)

    def deliver(self) -> Generation | None:
        """All that no answer had yet, as one generation; None if that is no token."""
        if not self._tokens:
            return None
        generation = Generation(
            self.id,
            tuple(self._tokens),
            self._finished,
            tuple(self._top_tokens),
            self._prompt(),
            *((self.drafted, self.accepted) if self._finished else ()),
        )
        self._tokens, self._top_tokens = [], []
        return generation

    def _add(self, token: ChosenToken) -> None:
        """An EOS token comes before a stop sequence, and both come before LENGTH.

        TGI's shard has LENGTH first (`utils/tokens.py`). This differs on purpose: since router 3.1.1 LENGTH makes the
        router ask for more of the same text, so that it would continue past an EOS.
        """
        token_id = token.token_id
        self._generated.append(token_id)
        if self._drafts is not None:
            self._drafts.add(token_id)
        special = token_id in self._tokenizer.special_ids
        piece = self._text.add(token_id)
        reason: FinishReason | None = None
        if token_id in self._eos_token_ids:
            reason = FinishReason.EOS_TOKEN
        elif (end := self._stops.end_in(piece)) is not None:
            piece = piece[:end]
            reason = FinishReason.STOP_SEQUENCE
        elif len(self._generated) >= self.request.max_new_tokens:
            reason = FinishReason.LENGTH
        if not special:
            self._pieces.append(piece)
        self._tokens.append(GeneratedToken(token_id, token.logprob, piece, special))
        if self.request.top_n_tokens:
            self._top_tokens.append(self._best(token.ranked))
        if reason is not None:
            self._finished = self._generated_text(reason)
        elif self.constraint is not None:
            self.constraint.advance(token_id)
        if len(self.prompt_ids) + len(self._generated) == self._recomputed_at:
            self._was_seated = self._is_prompt_complete = False

    def _best(self, ranked: RankedTokens | None) -> tuple[GeneratedToken, ...]:
        """The first n, and those that tie with the n-th (TGI's rule)."""
        if ranked is None or not ranked.logprobs:
            return ()
        last = ranked.logprobs[: self.request.top_n_tokens][-1]
        special_ids = self._tokenizer.special_ids
        return tuple(
            GeneratedToken(token_id, logprob, self._tokenizer.decode([token_id]), token_id in special_ids)
            for token_id, logprob in zip(ranked.token_ids, ranked.logprobs, strict=True)
            if logprob >= last
        )

    def _prompt(self) -> PromptTokens | None:
        """With the first token only."""
        if self.prompt_logprobs is None:
            return None
        logprobs, self.prompt_logprobs = [math.nan, *self.prompt_logprobs], None
        texts = [self._tokenizer.decode([token_id]) for token_id in self.prompt_ids]
        return PromptTokens(list(self.prompt_ids), logprobs, texts)

    def _generated_text(self, reason: FinishReason) -> GeneratedText:
        sampling = self.request.sampling
        return GeneratedText(
            text="".join(self._pieces),
            generated_tokens=len(self._generated),
            finish_reason=reason,
            seed=sampling.seed if sampling.samples else None,
        )
