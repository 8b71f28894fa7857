"""Drives an engine by hand: prompts join and leave a batch."""

from dataclasses import dataclass, field

from text_generation_server.engine.contract import Engine
from text_generation_server.sampling.parameters import SamplingParameters


@dataclass
class Run:
    """One request on an engine."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


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
        chosen = self.engine.prefill(slot, prompt, sampling or SamplingParameters(), adapter=adapter).read()
        run = Run(slot, list(chosen.token_ids), list(chosen.logprobs))
        self.running[slot] = run
        return run

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            chosen = self.engine.decode().read()
            for slot, run in self.running.items():
                run.tokens.append(chosen.token_ids[slot])
                run.logprobs.append(chosen.logprobs[slot])

    def leave(self, slot: int) -> None:
        self.engine.release(slot)
        del self.running[slot]

    def alone(self, prompt: list[int], count: int, sampling: SamplingParameters, slot: int = 0) -> list[int]:
        """What a request gets in an otherwise empty batch."""
        run = self.join(slot, prompt, sampling)
        self.step(count - 1)
        self.leave(slot)
        return run.tokens
