"""Rotary embeddings whose frequencies depend on length go by each request's own, as transformers does for it alone."""

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import LONGROPE, generate, save
from support.driver import Driver, score
from support.traffic import MAX_LENGTH, TOKENIZER, alone, is_plain, prompt_of, random_request, serve
from text_generation_server.batching.requests import GenerationRequest

ORIGINAL = 45
"""Tokens beyond which frequencies change: prompts are shorter and longer, and outputs cross it."""

LONG = {**LONGROPE, "original_max_position_embeddings": ORIGINAL}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    # transformers computes a request again that grows beyond the original length.
    "phi3 longrope": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": ORIGINAL},
    ),
    "phi3 partial longrope": (
        "phi3",
        {
            "rope_parameters": {
                **LONG,
                **{"partial_rotary_factor": 0.75, "short_factor": [1.0] * 6, "long_factor": [1.5, 4.0] * 3},
            },
            "original_max_position_embeddings": ORIGINAL,
        },
    ),
    # It does not, of other models.
    "llama longrope": ("llama", {"rope_parameters": LONG}),
    "llama dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": ORIGINAL}),
    # Two kinds of layers, of which one depends on length.
    "gemma3_text longrope": (
        "gemma3_text",
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
                "full_attention": LONG,
            }
        },
    ),
}


def checkpoint(kind: str, directory: Path) -> tuple[Path, Any]:
    """A random model, and what transformers makes of it."""
    model_type, special = KINDS[kind]
    sizes = {"vocab_size": len(TOKENIZER), "max_position_embeddings": 2 * MAX_LENGTH}
    save(model_type, directory, **{**sizes, **special})
    return directory, AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def fresh(model: Any) -> Any:
    """As nobody has called it before: frequencies that depend on length stay from one call to the next."""
    return copy.deepcopy(model)


def random_request_near_the_boundary(chance: random.Random, request_id: int) -> GenerationRequest:
    request = random_request(chance, request_id)
    if chance.random() < 0.5:
        # The beginning goes, so these share less.
        return replace(
            request, truncate=ORIGINAL - chance.randint(0, 6), max_new_tokens=chance.randint(9, 20)
        )
    return request


@pytest.mark.parametrize(("kind", "chunk"), [*zip(KINDS, (32, 64, 32, 32, 64), strict=True)])
def test_requests_on_both_sides_of_the_boundary_get_what_they_get_of_transformers(
    kind: str, chunk: int, tmp_path: Path
) -> None:
    directory, reference = checkpoint(kind, tmp_path)
    engine = engines.engine(
        directory, batch_size=3, prefill_chunk=chunk, max_length=MAX_LENGTH, scores_prompts=True
    )
    clients, generator = serve(engine, random.Random(kind), 50, random_request_near_the_boundary)
    assert generator.prefixes.hits > 4
    crossed = 0
    for client in clients:
        if client.cancelled:
            continue
        chosen = [token.id for token in client.tokens]
        if not is_plain(client.request):
            assert chosen == [token.id for token in alone(engine, client.request).tokens], client.request
            continue
        prompt = prompt_of(client.request)
        expected = generate(fresh(reference), prompt, len(chosen))
        assert chosen == expected.tokens, (len(prompt), client.request)
        assert [token.logprob for token in client.tokens] == pytest.approx(expected.logprobs, abs=1e-4)
        crossed += len(prompt) <= ORIGINAL < len(prompt) + len(chosen) - 1
    assert crossed > 2
    assert engine.statistics().compilations_after_warm_up == 0


@pytest.mark.parametrize("length", [40, ORIGINAL, ORIGINAL + 1, 140])
def test_a_prompt_has_the_logprobs_of_its_own_length(length: int, tmp_path: Path) -> None:
    directory, reference = checkpoint("llama dynamic", tmp_path)
    engine = engines.loader(
        directory,
        batch_size=2,
        prefill_chunk=32,
        max_length=MAX_LENGTH,
        scores_prompts=True,
        skip_warmup=True,
    ).load()
    prompt = random.Random(length).choices(range(3, 160), k=length)
    driver = Driver(engine)
    # A neighbour on the other side of the boundary.
    driver.join(1, random.Random(1).choices(range(3, 160), k=ORIGINAL + 20 if length < 100 else 20))
    with torch.no_grad():
        scores = torch.log_softmax(fresh(reference)(torch.tensor([prompt])).logits[0], dim=-1)
    expected = [float(scores[place, token]) for place, token in enumerate(prompt[1:])]
    assert score(engine, 0, prompt) == pytest.approx(expected, abs=1e-3)


def test_a_model_that_stretches_its_frequencies_goes_as_far_as_they_do(tmp_path: Path) -> None:
    directory, _ = checkpoint("llama dynamic", tmp_path)
    assert engines.loader(directory, batch_size=1).description.positions == 4 * ORIGINAL
