"""What fewer bits cost in quality: the perplexity of a fixed text, by the engine's own scores of prompts.

    python -m benchmarks.perplexity models/SmolLM2-135M-Instruct int8 fp8 [CHECKPOINT ...]

The first is the model as it comes; each further word is what --quantize may make of it, or another directory. The text
is chapters of the language reference that every Python has (`pydoc_data.topics`), in pieces of PIECE tokens.
"""

import argparse
import math
import tempfile
from importlib import import_module
from pathlib import Path

from loguru import logger
from tokenizers import Tokenizer

from benchmarks.prompts import prefill
from benchmarks.report import table
from text_generation_server.loading.engine import EngineLoader, EngineOptions
from text_generation_server.model.quantisation.scheme import MADE
from text_generation_server.runtime.cache import ProgramCache
from text_generation_server.sampling.parameters import SamplingParameters

CHAPTERS = (
    "exceptions",
    "objects",
    "execmodel",
    "with",
    "typesmapping",
    "compound",
    "formatstrings",
    "import",
)
TOKENS = 8192
PIECE = 1024
"""Tokens that are scored together; the first of them has nothing before it and is left out."""


def text() -> str:
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return "\n".join(topics[name] for name in CHAPTERS)


def perplexity(model: Path, quantize: str | None, tokens: list[int]) -> float:
    options = EngineOptions(
        batch_size=1,
        max_length=PIECE,
        quantize=quantize,
        scores_prompts=True,
        skip_warmup=True,
        chips=1,
    )
    with tempfile.TemporaryDirectory() as directory:
        engine = EngineLoader(model, options, ProgramCache(Path(directory))).load()
        # One less: a prompt leaves room for a token.
        pieces = [tokens[start : start + PIECE - 1] for start in range(0, len(tokens), PIECE - 1)]
        scores = []
        for piece in pieces:
            engine.release(0)
            scores += prefill(engine, 0, piece, SamplingParameters(), scored=True)
    return math.exp(-sum(scores) / len(scores))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("others", nargs="*", help=f"{', '.join(MADE)}, or a directory")
    arguments = parser.parse_args()
    logger.remove()
    tokens = Tokenizer.from_file(str(arguments.model / "tokenizer.json")).encode(text()).ids[:TOKENS]
    plain = perplexity(arguments.model, None, tokens)
    rows = [["as it comes", f"{plain:.4f}", ""]]
    for other in arguments.others:
        made = other if other in MADE else None
        found = perplexity(arguments.model if made else Path(other), made, tokens)
        rows.append([other, f"{found:.4f}", f"{100 * (found / plain - 1):+.2f} %"])
    print(f"{arguments.model.name}, {len(tokens)} tokens\n")
    print(table(["weights", "perplexity", "change"], rows))


if __name__ == "__main__":
    main()
