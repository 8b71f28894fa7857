"""Drives an engine by hand: prompts join and leave a batch."""

from dataclasses import dataclass, field

from text_generation_server.engine.contract import ChosenTokens, Engine
from text_generation_server.sampling.parameters import SamplingParameters


@dataclass
class Run:
    """One request on an engine."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def take(self, chosen: ChosenTokens) -> None:
        """Keeps what was chosen for this slot."""
        for token in chosen[self.slot]:
            self.tokens.append(token.token_id)
            self.logprobs.append(token.logprob)


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
    ) -> Run:
        pending = self.engine.prefill(slot, prompt, sampling or SamplingParameters(), adapter=adapter)
        run = Run(slot)
        run.take(pending.read())
        self.running[slot] = run
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
        self.step(count - 1)
        self.leave(slot)
        return run.tokens
