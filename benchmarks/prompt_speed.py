"""What do prompts cost those who wait for them, and those who run meanwhile? (part of `make bench`)

    python -m benchmarks.prompt_speed models/SmolLM2-135M-Instruct

Everything goes through the generator, as requests of a router do. Each figure is a median, with the middle half of the
repetitions in brackets.

- pause: three requests are streaming when a prompt of 1500 tokens arrives. The time between two tokens of theirs, where
  its median over the repetitions is longest until the newcomer has its first token, beside an ordinary step before, and
  one piece: on average, and at the prompt's end, where it looks back on all others.
- first token: of a prompt of 1000 tokens that nobody asked before, of another question behind the same 1000 tokens,
  and of the third turn of a chat whose first turn had 1000.
- together: until all of 8 prompts of 64 tokens have their first token, sent in one call, and one after the other.
- pieces: tokens per second of a prompt of 1024 tokens for each size of `--prefill-chunk`.
- index: finding the longest prefix among 128 slots, for a prompt as long as a slot.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from benchmarks.prompts import decoded
from benchmarks.report import median_and_spread, table
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.prefixes import BASE, PrefixIndex
from text_generation_server.batching.requests import BatchOutcome, GenerationRequest
from text_generation_server.loading.engine import EngineOptions, LoadedModel, load_engine
from text_generation_server.settings import CHUNKS, CPU_CHUNK

REPETITIONS = 5
MAX_LENGTH = 2048
ARRIVING = 1500
WORDS = [
    *(
        "river",
        "mountain",
        "bridge",
        "garden",
        "window",
        "letter",
        "winter",
        "market",
        "signal",
        "copper",
        "engine",
    ),
    *("paper", "forest", "island", "mirror", "station", "harbour", "yellow", "silver", "morning"),
]


class Service:
    """A generator, and the requests that were given to it."""

    def __init__(self, loaded: LoadedModel, seed: int) -> None:
        self._loaded = loaded
        self._chance = random.Random(seed)
        self._ids = count()
        self.generator = Generator(loaded.engine, loaded.tokenizer, loaded.eos_token_ids)

    def text(self, tokens: int) -> str:
        """Words that nobody asked before, of about that many tokens."""
        words = " ".join(self._chance.choices(WORDS, k=tokens))
        ids = self._loaded.tokenizer.encode(words, add_special_tokens=False)[:tokens]
        return self._loaded.tokenizer.decode(ids)

    def request(self, prompt: str, new_tokens: int) -> GenerationRequest:
        return GenerationRequest(
            id=next(self._ids), prompt=prompt, max_new_tokens=new_tokens, ignore_eos_token=True
        )

    def prefill(self, *requests: GenerationRequest) -> BatchOutcome:
        return self.generator.prefill(next(self._ids), requests)

    def first_token(self, prompt: str) -> float:
        """Milliseconds until a request that is alone has its first token, which is all that it asks for."""
        return self.first_tokens([prompt])

    def first_tokens(self, prompts: Sequence[str]) -> float:
        """Milliseconds until all have their first token, sent in one call.

        They ask for no more, so that no step of theirs is in flight when the next ones come.
        """
        waiting = [self.request(prompt, 1) for prompt in prompts]
        left = {request.id for request in waiting}
        started = time.perf_counter()
        outcome = self.prefill(*waiting)
        while True:
            left -= {generation.request_id for generation in outcome.generations}
            if not left:
                break
            assert outcome.batch is not None
            outcome = self.generator.decode([outcome.batch.id])
        milliseconds = (time.perf_counter() - started) * 1e3
        self.generator.clear(None)
        return milliseconds

    def answer(self, prompt: str, new_tokens: int) -> str:
        """What a request that is alone is answered."""
        outcome = self.prefill(self.request(prompt, new_tokens))
        generations = list(outcome.generations)
        for each in decoded(self.generator, outcome):
            generations += each.generations
        finished = generations[-1].finished
        assert finished is not None
        return finished.text


def pauses(loaded: LoadedModel, seed: int) -> tuple[float, list[float]]:
    """Milliseconds of an ordinary step of three streams, and between their tokens while a prompt arrives."""
    service = Service(loaded, seed)
    streams = [service.request(service.text(40), 400) for _ in range(3)]
    outcome = service.prefill(*streams)
    assert outcome.batch is not None
    running, newcomer = outcome.batch.id, service.request(service.text(ARRIVING), 8)
    ordinary = []
    for _ in range(12):
        started = time.perf_counter()
        service.generator.decode([running])
        ordinary.append((time.perf_counter() - started) * 1e3)
    last = time.perf_counter()
    joined = service.prefill(newcomer).batch
    assert joined is not None
    batches, between = [running, joined.id], list[float]()
    while True:
        outcome = service.generator.decode(batches)
        answered = {generation.request_id for generation in outcome.generations}
        # Each answer has a token of each stream.
        assert answered >= {stream.id for stream in streams}
        now = time.perf_counter()
        between.append((now - last) * 1e3)
        if newcomer.id in answered:
            service.generator.clear(None)
            return statistics.median(ordinary[2:]), between
        last, batches = now, [running]


def one_piece(loaded: LoadedModel, seed: int) -> tuple[float, float]:
    """Milliseconds of a piece of the largest size: on average over the prompt that arrives, and at its end."""
    service = Service(loaded, seed)
    # Less than a piece each, for what a tokenizer makes of the seams.
    ends = [service.text(CPU_CHUNK - 8) for _ in range(3)]
    beginning = service.text(ARRIVING - 2 * CPU_CHUNK)
    average = service.first_token(beginning) / (ARRIVING / CPU_CHUNK - 2)
    # A slot holds the beginning each time.
    two = service.first_token(" ".join([beginning, *ends[:2]]))
    one = service.first_token(" ".join([beginning, ends[2]]))
    return average, two - one


def measure(model: Path) -> str:
    four = load_engine(model, EngineOptions(4, MAX_LENGTH), None, lambda _: None)
    four.engine.warm_up(lambda _: None)
    rows = []
    measured = [pauses(four, seed) for seed in range(REPETITIONS)]
    step = [ordinary for ordinary, _ in measured]
    # All prompts have as many pieces. A neighbour on this machine makes one pause long, and not the same one each time.
    longest = max(zip(*(between for _, between in measured), strict=False), key=statistics.median)
    average, last = zip(*(one_piece(four, 100 + seed) for seed in range(REPETITIONS)), strict=True)
    steps = [
        (statistics.median(longest) - statistics.median(piece)) / statistics.median(step)
        for piece in (average, last)
    ]
    rows.append(["ordinary step of three streams", median_and_spread(step), ""])
    rows.append([f"one piece of {CPU_CHUNK} tokens, on average", median_and_spread(average), ""])
    rows.append([f"the last piece of {ARRIVING} tokens", median_and_spread(last), ""])
    rows.append(
        [
            f"longest pause while {ARRIVING} tokens arrive",
            median_and_spread(longest),
            f"the last piece and {steps[1]:.1f} steps, an average one and {steps[0]:.1f}",
        ]
    )
    first, second, third = [], [], []
    for seed in range(REPETITIONS):
        service = Service(four, 200 + seed)
        shared = service.text(1000)
        first.append(service.first_token(shared + " Who built it?"))
        second.append(service.first_token(shared + " When was that?"))
        chat = service.text(1000) + "\nUser: Who built it?\nAssistant:"
        for question in ("When was that?", "And why?"):
            chat += service.answer(chat, 24) + f"\nUser: {question}\nAssistant:"
        third.append(service.first_token(chat))
    whole = statistics.median(first)
    rows.append(["first token after 1000 new tokens", median_and_spread(first), ""])
    for name, times in (("the same 1000 tokens", second), ("a third turn after 1000", third)):
        ratio = statistics.median(times) / whole
        rows.append([f"first token after {name}", median_and_spread(times), f"{ratio:.2f} of that"])
    del four, service
    eight = load_engine(model, EngineOptions(8, 512), None, lambda _: None)
    eight.engine.warm_up(lambda _: None)
    together, apart = [], []
    for seed in range(REPETITIONS):
        service = Service(eight, 300 + seed)
        together.append(service.first_tokens([service.text(64) for _ in range(8)]))
        apart.append(sum(service.first_token(service.text(64)) for _ in range(8)))
    ratio = statistics.median(apart) / statistics.median(together)
    rows.append(["8 prompts of 64 tokens, one after the other", median_and_spread(apart), ""])
    rows.append(["8 prompts of 64 tokens together", median_and_spread(together), f"{ratio:.2f} times sooner"])
    del eight, service
    parts = [table(["prompts", "ms", ""], rows), table(["piece", "tokens/s of 1024"], by_chunk(model))]
    return "\n\n".join(
        [*parts, f"Finding a prefix among 128 slots of {MAX_LENGTH} tokens: {index_ms():.2f} ms."]
    )


def by_chunk(model: Path) -> list[list[str]]:
    rows = []
    for chunk in CHUNKS:
        loaded = load_engine(model, EngineOptions(1, MAX_LENGTH, prefill_chunk=chunk), None, lambda _: None)
        loaded.engine.warm_up(lambda _: None)
        service = Service(loaded, chunk)
        speeds = [1024 / service.first_token(service.text(1024)) * 1e3 for _ in range(REPETITIONS)]
        rows.append([str(chunk), median_and_spread(speeds)])
    return rows


def index_ms() -> float:
    """Milliseconds; all slots share the first half of the prompt."""
    index = PrefixIndex(128, MAX_LENGTH)
    chance = random.Random(1)
    shared = chance.choices(range(40_000), k=MAX_LENGTH // 2)
    for slot in range(128):
        index.begin(slot, shared + chance.choices(range(40_000), k=MAX_LENGTH // 2), BASE, None)
        index.extended(slot, MAX_LENGTH - 1)
    times = []
    for _ in range(REPETITIONS):
        prompt = shared + chance.choices(range(40_000), k=MAX_LENGTH // 2)
        started = time.perf_counter()
        index.find(prompt, BASE)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a directory with a checkpoint")
    print(measure(parser.parse_args().model))


if __name__ == "__main__":
    main()
