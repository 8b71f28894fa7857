"""What fewer bits cost in quality: the perplexity of a fixed text, by the engine's own scores of prompts.

    python -m benchmarks.perplexity models/SmolLM2-135M-Instruct int8 fp8 [CHECKPOINT ...]
    python -m benchmarks.perplexity models/SmolLM2-135M-Instruct --kv-cache-dtype int8 fp8_e4m3fn fp8_e5m2

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
from text_generation_server.engine.cache_dtype import CacheDtype
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


def perplexity(
    model: Path, tokens: list[int], quantize: str | None = None, cache_dtype: CacheDtype | None = None
) -> float:
    options = EngineOptions(
        batch_size=1,
        max_length=PIECE,
        quantize=quantize,
        cache_dtype=cache_dtype,
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
    parser.add_argument("--kv-cache-dtype", nargs="+", type=CacheDtype, default=[], metavar="DTYPE")
    arguments = parser.parse_args()
    logger.remove()
    tokens = Tokenizer.from_file(str(arguments.model / "tokenizer.json")).encode(text()).ids[:TOKENS]
    plain = perplexity(arguments.model, tokens)
    found = {}
    for other in arguments.others:
        if other in MADE:
            found[f"weights in {other}"] = perplexity(arguments.model, tokens, other)
        else:
            found[other] = perplexity(Path(other), tokens)
    found |= {
        f"KV cache in {dtype}": perplexity(arguments.model, tokens, cache_dtype=dtype)
        for dtype in arguments.kv_cache_dtype
    }
    rows = [["as it comes", f"{plain:.4f}", ""]]
    rows += [[name, f"{each:.4f}", f"{100 * (each / plain - 1):+.2f} %"] for name, each in found.items()]
    print(f"{arguments.model.name}, {len(tokens)} tokens\n")
    print(table(["", "perplexity", "change"], rows))


if __name__ == "__main__":
    main()
