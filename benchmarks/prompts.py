"""Prompts of measurements: how they get into slots, and how they are answered."""

from collections.abc import Iterator, Sequence

from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import BatchOutcome
from text_generation_server.engine.contract import Engine
from text_generation_server.sampling.parameters import SamplingParameters


def prefill(
    engine: Engine,
    slot: int,
    token_ids: Sequence[int],
    sampling: SamplingParameters,
    *,
    ranked: bool = False,
    scored: bool = False,
    adapter: str | None = None,
) -> list[float]:
    """Fills a slot with a whole prompt and waits for it; no other slot may be filling.

    Returns the logprob of each token but the first, if `scored`; else nothing.
    """
    is_live = engine.fill(slot, token_ids, sampling, ranked=ranked, scored=scored, adapter=adapter)
    pieces = []
    while not is_live:
        pieces.append(engine.extend())
        is_live = slot in pieces[-1].completed
    return [logprob for piece in pieces for logprob in piece.read().get(slot, ())]


def decoded(generator: Generator, outcome: BatchOutcome) -> Iterator[BatchOutcome]:
    """Decodes until no request of the batch is unfinished: an outcome for each call."""
    while outcome.batch is not None:
        outcome = generator.decode([outcome.batch.id])
        yield outcome
