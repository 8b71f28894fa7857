"""Drives an engine by hand: prompts join and leave a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from text_generation_server.engine.contract import ChosenTokens, Engine, Prefix
from text_generation_server.sampling.parameters import SamplingParameters


@dataclass
class Run:
    """One request on an engine; `prompt_logprobs`: see `prefill`."""

    slot: int
    prompt_logprobs: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def take(self, chosen: ChosenTokens) -> None:
        """Keeps what was chosen for this slot."""
        for token in chosen[self.slot]:
            self.tokens.append(token.token_id)
            self.logprobs.append(token.logprob)


def prefill(
    engine: Engine,
    slot: int,
    prompt: Sequence[int],
    sampling: SamplingParameters | None = None,
    *,
    ranked: bool = False,
    scored: bool = False,
    adapter: str | None = None,
    prefix: Prefix | None = None,
) -> list[float]:
    """Fills a slot with a whole prompt, so that it is live; no other slot may be filling.

    Returns the logprobs of the prompt's tokens but the first, if it is `scored`.
    """
    logprobs: list[float] = []
    is_live = engine.fill(
        slot,
        prompt,
        sampling or SamplingParameters(),
        ranked=ranked,
        scored=scored,
        adapter=adapter,
        prefix=prefix,
    )
    while not is_live:
        piece = engine.extend()
        logprobs += piece.read().get(slot, ())
        is_live = slot in piece.completed
    return logprobs


def score(engine: Engine, slot: int, prompt: Sequence[int], adapter: str | None = None) -> list[float]:
    """The logprobs of a prompt's tokens but the first; the slot is free before and after."""
    logprobs = prefill(engine, slot, prompt, scored=True, adapter=adapter)
    engine.release(slot)
    return logprobs


def step(engine: Engine) -> ChosenTokens:
    """One step, in which all tokens are allowed."""
    return engine.start_step().choose().read()


class Driver:
    """Joins, steps and leaves, keeping what each request was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.running: dict[int, Run] = {}

    def join(
        self,
        slot: int,
        prompt: list[int],
        sampling: SamplingParameters | None = None,
        adapter: str | None = None,
        prefix: Prefix | None = None,
        *,
        scored: bool = False,
    ) -> Run:
        """Fills the slot with the whole prompt; its first token comes with the next step."""
        logprobs = prefill(self.engine, slot, prompt, sampling, scored=scored, adapter=adapter, prefix=prefix)
        self.running[slot] = run = Run(slot, logprobs)
        return run

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            chosen = self.engine.start_step().choose().read()
            for run in self.running.values():
                run.take(chosen)

    def leave(self, slot: int) -> None:
        self.engine.release(slot)
        del self.running[slot]

    def alone(self, prompt: list[int], count: int, sampling: SamplingParameters, slot: int = 0) -> list[int]:
        """What a request gets in an otherwise empty batch."""
        run = self.join(slot, prompt, sampling)
        self.step(count)
        self.leave(slot)
        return run.tokens
