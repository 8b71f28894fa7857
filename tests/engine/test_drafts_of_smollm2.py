"""SmolLM2 gives the same tokens with and without drafts, greedy and sampled, on one chip and on four."""

from pathlib import Path

import pytest

from engine.test_drafts_on_device import DraftingGenerator, PlainGenerator
from support import engines
from support.compilation import compilation_as_served
from support.rooms import answers
from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.model.configuration import load_tokenizer
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

LIST = "Anna lives in Lindholm. Otto lives in Norrby. Ida lives in Lindholm. Max lives in"

REQUESTS = [
    GenerationRequest(0, LIST, max_new_tokens=48, ignore_eos_token=True),
    GenerationRequest(1, f"List: {LIST}", max_new_tokens=40),
    GenerationRequest(2, LIST, max_new_tokens=48, sampling=SamplingParameters(do_sample=True, seed=7)),
    GenerationRequest(3, LIST, max_new_tokens=32, sampling=SamplingParameters(do_sample=True, seed=2**40)),
]


@pytest.mark.parametrize("chips", [1, 4])
def test_smollm2_gives_the_same_tokens_with_and_without_drafts(model_directory: Path, chips: int) -> None:
    tokenizer = ModelTokenizer.from_transformers(load_tokenizer(model_directory))
    with compilation_as_served():
        options = {"batch_size": 4, "max_length": 128, "speculate": 4, "chips": chips, "skip_warmup": True}
        engine = engines.loader(model_directory, **options).load()
        plain = PlainGenerator(engine, tokenizer, frozenset())
        drafting = DraftingGenerator(engine, tokenizer, frozenset())
        expected, given = (answers(generator, REQUESTS) for generator in (plain, drafting))
    assert drafting.speculation.accepted > 10
    for request in REQUESTS:
        tokens = [token for each in given[request.id] for token in each.tokens]
        right = [token for each in expected[request.id] for token in each.tokens]
        assert [token.id for token in tokens] == [token.id for token in right]
        assert [token.logprob for token in tokens] == pytest.approx(
            [token.logprob for token in right], abs=1e-4
        )
