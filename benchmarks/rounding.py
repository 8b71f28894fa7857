"""How often does another program of the same step choose another token, because it rounds otherwise?

    python -m benchmarks.rounding models/SmolLM2-135M-Instruct

Passages of a fixed text are continued greedily by an engine that takes each prompt as one piece, one token a step, from
nothing; then with smaller pieces, with a prefix that a slot holds already, and with drafts in every step that has some.
Where an answer leaves the first one, the logprobs that the first one saw of both tokens are compared: within rounding
they lie close to each other.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unittest import mock

from benchmarks.perplexity import text
from benchmarks.prompts import decoded
from benchmarks.report import table
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import Generation, GenerationRequest
from text_generation_server.batching.speculation import Speculation
from text_generation_server.loading.engine import EngineOptions, LoadedModel, load_engine

PROMPT_TOKENS = 160
STRIDE = 400
"""Tokens from one passage to the next."""

KEPT_TOKENS = 100
"""Of a prompt, that a slot holds already where prefixes are reused."""

ALTERNATIVES = 5
MAX_LENGTH = 512
DRAFTS = 4


@dataclass(frozen=True)
class Answer:
    """Tokens of a request, and by place what its logprobs said of the best ones."""

    token_ids: list[int]
    alternatives: list[dict[int, float]]


@dataclass(frozen=True)
class Difference:
    """Where an answer leaves another.

    Attributes:
        place: of the token, from 0.
        gap: by how much the other's token was behind, in logprob; None if it was not among the best ALTERNATIVES.
    """

    place: int
    gap: float | None


class Asked:
    """A generator over one slot."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._generator = Generator(loaded.engine, loaded.tokenizer, frozenset())
        self._ids = count()

    def ask(self, prompt: str, new_tokens: int) -> Answer:
        request = GenerationRequest(
            next(self._ids), prompt, max_new_tokens=new_tokens, top_n_tokens=ALTERNATIVES
        )
        outcome = self._generator.prefill(request.id, [request])
        generations: list[Generation] = list(outcome.generations)
        for each in decoded(self._generator, outcome):
            generations += each.generations
        return Answer(
            [token.id for each in generations for token in each.tokens],
            [{best.id: best.logprob for best in place} for each in generations for place in each.top_tokens],
        )


def first_difference(answer: Answer, reference: Answer) -> Difference | None:
    """None if both have the same tokens."""
    for place, (given, expected) in enumerate(zip(answer.token_ids, reference.token_ids, strict=True)):
        if given != expected:
            seen = reference.alternatives[place]
            return Difference(place, seen[expected] - seen[given] if given in seen else None)
    return None


def row(name: str, answers: Sequence[Answer], references: Sequence[Answer]) -> list[str]:
    found = [first_difference(*pair) for pair in zip(answers, references, strict=True)]
    compared = sum(
        len(answer.token_ids) if difference is None else difference.place + 1
        for answer, difference in zip(answers, found, strict=True)
    )
    differences = [difference for difference in found if difference is not None]
    gaps = [difference.gap for difference in differences]
    widest = max((gap for gap in gaps if gap is not None), default=None)
    told = "-" if widest is None else f"{widest:.3f}"
    unseen = gaps.count(None)
    return [
        name,
        str(compared),
        str(len(differences)),
        told + (f", {unseen} not among the best {ALTERNATIVES}" if unseen else ""),
    ]


def measure(directory: Path, cache: Path | None, dtype: str, prompts: int, new_tokens: int) -> None:
    """Prints a table for one data type."""

    def load(prefill_chunk: int, speculate: int = 0) -> LoadedModel:
        options = EngineOptions(
            1, MAX_LENGTH, dtype, prefill_chunk=prefill_chunk, speculate=speculate, skip_warmup=True
        )
        return load_engine(directory, options, cache)

    loaded = load(256)
    whole, tokenizer = Asked(loaded), loaded.tokenizer
    token_ids = tokenizer.encode(text(), add_special_tokens=False)
    passages = [token_ids[place * STRIDE :][:PROMPT_TOKENS] for place in range(prompts)]
    decoded = [tokenizer.decode(passage) for passage in passages]
    references = [whole.ask(prompt, new_tokens) for prompt in decoded]
    rows = []
    in_pieces = Asked(load(32))
    rows.append(row("pieces of 32", [in_pieces.ask(prompt, new_tokens) for prompt in decoded], references))
    reused = []
    for passage, prompt in zip(passages, decoded, strict=True):
        whole.ask(tokenizer.decode(passage[:KEPT_TOKENS]), 1)
        reused.append(whole.ask(prompt, new_tokens))
    rows.append(row("reused prefix", reused, references))
    with mock.patch.object(Speculation, "price", 0.0):
        drafting = Asked(load(256, DRAFTS))
        rows.append(
            row(f"{DRAFTS} drafts", [drafting.ask(prompt, new_tokens) for prompt in decoded], references)
        )
    print(f"\n{dtype}, {prompts} prompts of {PROMPT_TOKENS} tokens, {new_tokens} new ones\n")
    print(
        table(["with", "tokens compared", "answers that differ", "widest gap in logprob"], rows), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--compile-cache", type=Path)
    arguments = parser.parse_args()
    for dtype in arguments.dtypes:
        measure(arguments.model, arguments.compile_cache, dtype, arguments.prompts, arguments.new_tokens)


if __name__ == "__main__":
    main()
