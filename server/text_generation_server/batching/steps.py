"""Between the engine and the requests: which step is in flight for whom, and which token was chosen for whom."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from text_generation_server.batching.slots import RequestState
from text_generation_server.engine.contract import ChosenTokens, PendingOutput, RankedTokens


@dataclass(frozen=True)
class StepInFlight:
    """A decode step that runs on the device, and who held which slot when it was started."""

    pending: PendingOutput
    owners: dict[int, RequestState]


@dataclass(frozen=True)
class OwnedToken:
    """One token that the engine chose for one request."""

    owner: RequestState
    id: int
    logprob: float
    ranked: RankedTokens | None


def owned_tokens(owners: Mapping[int, RequestState], tokens: ChosenTokens) -> Iterator[OwnedToken]:
    """The tokens of some slots of an outcome, with those to whom they belong."""
    for slot, owner in owners.items():
        for token in tokens.get(slot, ()):
            yield OwnedToken(owner, token.token_id, token.logprob, token.ranked)
