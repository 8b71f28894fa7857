"""How many more tokens a second does speculation bring, and what does it cost? (part of `make bench`)

    python -m benchmarks.speculation_speed models/SmolLM2-135M-Instruct

The same requests go through the generators of two engines in turns, one with `--speculate` and one without. As many
requests run at once as there are slots, all with the same prompt. Four prompts ask for an answer that copies, the last
one for free text. Answers must be equal. Each figure is a median, with the middle half of the repetitions in brackets.

The last column does not depend on this machine: tokens per step if each step had all drafts that there are, which is
the ratio where verifying them costs no more than a plain step, as on a device that waits for its memory.
"""

import argparse
import time
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

from benchmarks.prompts import decoded
from benchmarks.report import median_and_spread, table
from text_generation_server.batching.drafts import Drafts
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import Generation, GenerationRequest
from text_generation_server.loading.engine import EngineOptions, LoadedModel, load_engine

MAX_LENGTH = 1024

CODE = """```python
def total(prices, rate):
    result = 0
    for price in prices:
        result += price * (1 + rate)
    return result


def average(prices):
    return sum(prices) / len(prices)


def cheapest(prices):
    return min(prices)
```"""

REPORT = (
    "The harbour of Lindholm was closed on Monday because of a storm from the north. Seven ships waited outside until "
    "the wind dropped in the evening. The harbour master said that no ship was damaged and that all of them would be "
    "unloaded by Wednesday morning. The ferry to the islands will run again on Tuesday at noon."
)

TYPED = (
    "The harbour of Lindholm was closd on Monday because of a storm from the north. Seven ships waited outside until "
    "the wind dropped in the evening. The harbour master said that no ship was damaged and that all of them would be "
    "unloded by Wednesday morning. The ferry to the islands will run again on Tuesday at noon. The fish market opens "
    "on Thursday, and the museum of the harbour stays closed until the end of the month, since its roof was damagd by "
    "the storm."
)

PEOPLE = """Name: Anna Berg, city: Lindholm, age: 34
Name: Otto Lang, city: Norrby, age: 51
Name: Ida Falk, city: Lindholm, age: 29
Name: Max Holm, city: Sundby, age: 44
Name: Eva Lind, city: Norrby, age: 38
Name: Karl Dahl, city: Lindholm, age: 62"""

PROMPTS = {
    "correction": f"Correct the spelling of this text, and change nothing else.\n\n{TYPED}",
    "summary": f"{REPORT}\n\nRepeat the text above word by word, and then say in one sentence what happened.",
    "code": f"{CODE}\n\nAdd a docstring to each of these functions.",
    "JSON": f"people.txt:\n{PEOPLE}\n\nWrite these people as a JSON list of objects with the keys name, city and age.",
    "free text": "Tell me a story about a lighthouse keeper who finds a letter in a bottle.",
}


@dataclass(frozen=True)
class Answer:
    """What the requests of one measurement got.

    Attributes:
        prompt_ids, token_ids: of one of them.
        rate: tokens per second of all together, from the first one on.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    rate: float

    def tokens_per_step(self, drafts: int) -> float:
        """If each step had up to `drafts` tokens to verify, as long as there are some."""
        text, done, steps = Drafts(self.prompt_ids), 0, 0
        while done < len(self.token_ids):
            proposed = text.propose(drafts)
            chosen = self.token_ids[done : done + len(proposed) + 1]
            pairs = zip(proposed, chosen, strict=False)
            accepted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            for token_id in chosen[: accepted + 1]:
                text.add(token_id)
            done += accepted + 1
            steps += 1
        return len(self.token_ids) / steps


class Service:
    """A generator, and the ids of its requests."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._ids = count()
        self.generator = Generator(loaded.engine, loaded.tokenizer, loaded.eos_token_ids)

    def ask(self, prompt: str, new_tokens: int) -> Answer:
        """The answers of as many requests as there are slots, each up to its EOS token or `new_tokens`."""
        chat = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        requests = [
            GenerationRequest(next(self._ids), chat, max_new_tokens=new_tokens)
            for _ in range(self._loaded.engine.info.batch_size)
        ]
        outcome = self.generator.prefill(requests[0].id, requests)
        generations: list[Generation] = list(outcome.generations)
        while len({each.request_id for each in generations}) < len(requests):
            assert outcome.batch is not None
            outcome = self.generator.decode([outcome.batch.id])
            generations += outcome.generations
        before, started = sum(len(each.tokens) for each in generations), time.perf_counter()
        for each in decoded(self.generator, outcome):
            generations += each.generations
        seconds = time.perf_counter() - started
        after = sum(len(each.tokens) for each in generations)
        token_ids = [
            token.id for each in generations if each.request_id == requests[0].id for token in each.tokens
        ]
        prompt_ids = self._loaded.tokenizer.encode(chat, add_special_tokens=False)
        return Answer(prompt_ids, token_ids, (after - before) / seconds)


def measure(
    directory: Path, cache: Path | None, batch_size: int, drafts: int, new_tokens: int, repetitions: int
) -> None:
    """Prints a row for each prompt."""
    services = [
        Service(load_engine(directory, EngineOptions(batch_size, MAX_LENGTH, speculate=most), cache))
        for most in (0, drafts)
    ]
    rows = []
    for name, prompt in PROMPTS.items():
        for service in services:
            service.ask(prompt, 8)
        speculation = services[1].generator.speculation
        drafted, accepted = speculation.drafted, speculation.accepted
        rates: list[list[float]] = [[], []]
        for _ in range(repetitions):
            answers = [service.ask(prompt, new_tokens) for service in services]
            if answers[0].token_ids != answers[1].token_ids:
                raise SystemExit(
                    f"{name}: the answers differ: {answers[0].token_ids}, {answers[1].token_ids}"
                )
            for each, answer in zip(rates, answers, strict=True):
                each.append(answer.rate)
        ratios = [fast / plain for plain, fast in zip(*rates, strict=True)]
        drafted, accepted = speculation.drafted - drafted, speculation.accepted - accepted
        rows.append(
            [
                name,
                *map(median_and_spread, rates),
                median_and_spread(ratios, 2),
                f"{accepted / max(1, drafted):.0%} of {drafted // repetitions}",
                f"{speculation.price:.2f}",
                f"{answers[0].tokens_per_step(drafts):.2f}",
            ]
        )
    print(f"\nB={batch_size}, {drafts} drafts, up to {new_tokens} tokens\n")
    headings = [
        "answer",
        "tokens/s without",
        "with",
        "ratio",
        "drafts accepted",
        "price of a step",
        "at most",
    ]
    print(table(headings, rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--drafts", type=int, nargs="+", default=[4])
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--compile-cache", type=Path)
    arguments = parser.parse_args()
    for batch_size in arguments.batch_sizes:
        for drafts in arguments.drafts:
            measure(
                arguments.model,
                arguments.compile_cache,
                batch_size,
                drafts,
                arguments.new_tokens,
                arguments.repetitions,
            )


if __name__ == "__main__":
    main()
