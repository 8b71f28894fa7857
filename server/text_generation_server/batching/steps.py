"""Between the engine and the requests: which step is running for whom, and which token was chosen for whom."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from text_generation_server.batching.slots import RequestState
from text_generation_server.engine.contract import ChosenTokens, PendingTokens, RankedTokens


@dataclass(frozen=True)
class StartedStep:
    """A decode step that runs on the device, and who held which slot when it was started."""

    pending: PendingTokens
    owners: dict[int, RequestState]


@dataclass(frozen=True)
class ChosenToken:
    """One token that the engine chose for one request."""

    owner: RequestState
    id: int
    logprob: float
    ranked: RankedTokens | None


def chosen_for(owners: Iterable[tuple[int, RequestState]], tokens: ChosenTokens) -> Iterator[ChosenToken]:
    """The tokens of some rows of an outcome, with those to whom they belong."""
    for row, owner in owners:
        ranked = tokens.ranked[row] if tokens.ranked else None
        yield ChosenToken(owner, tokens.token_ids[row], tokens.logprobs[row], ranked)
