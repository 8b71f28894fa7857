"""Prompts in pieces, together, and from what slots hold: each request gets what it gets alone, and of transformers."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import follow, save
from support.driver import Driver
from support.lora_adapters import save_adapter
from support.traffic import (
    MAX_LENGTH,
    PLAIN,
    TOKENIZER,
    alone,
    is_plain,
    poison,
    prompt_of,
    random_request,
    serve,
)
from text_generation_server.batching.requests import GenerationRequest
from text_generation_server.engine.contract import Prefix
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.runtime.mesh import compilations


@dataclass(frozen=True)
class Kind:
    """A kind of attention and of cache, and how many requests it is tried with. Four key heads of 16 fill half a tile
    of lanes, so that two slots share a row."""

    model_type: str
    layout: CacheLayout
    requests: int
    slots: int = 3
    key_heads: int = 2


KINDS = [
    Kind("llama", CacheLayout.HEADS, 200),
    Kind("llama", CacheLayout.LANES, 60, slots=4, key_heads=4),
    Kind("mistral", CacheLayout.HEADS, 60),
    Kind("gemma2", CacheLayout.LANES, 60),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.model_type}-{kind.layout.value}")
def test_answers_do_not_depend_on_pieces_company_and_reuse(kind: Kind, tmp_path: Path) -> None:
    chance = random.Random(f"{kind}")
    directory = save(
        kind.model_type,
        tmp_path / "model",
        vocab_size=len(TOKENIZER),
        max_position_embeddings=MAX_LENGTH,
        num_key_value_heads=kind.key_heads,
    )
    adapter = save_adapter(directory, tmp_path / "one", 1, r=2, target_modules=["q_proj", "v_proj"])
    options: dict[str, Any] = {
        "max_length": MAX_LENGTH,
        "layout": kind.layout,
        "scores_prompts": True,
        "adapters": [("one", adapter)],
    }
    small = engines.engine(directory, batch_size=kind.slots, prefill_chunk=32, **options)
    large = engines.engine(directory, batch_size=1, prefill_chunk=128, **options)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    compiled = compilations()
    poison(small)
    compiled_by_poison = compilations() - compiled
    clients, generator = serve(small, chance, kind.requests, sometimes_with_an_adapter)
    assert generator.prefixes.hits > kind.requests / 4
    assert generator.prefixes.hit_tokens > 10 * generator.prefixes.hits
    assert sum(client.cancelled for client in clients) > 5
    for client in clients:
        if client.cancelled:
            continue
        expected = alone(large, client.request)
        assert [token.id for token in client.tokens] == [token.id for token in expected.tokens], (
            client.request
        )
        assert client.best == expected.best
        assert [token.logprob for token in client.tokens] == pytest.approx(
            [token.logprob for token in expected.tokens], abs=2e-4
        )
        if is_plain(client.request):
            prompt = prompt_of(client.request)
            chosen = [token.id for token in client.tokens]
            assert chosen == follow(reference, prompt, chosen).tokens, client.request
    assert compilations() == compiled + compiled_by_poison


def sometimes_with_an_adapter(chance: random.Random, request_id: int) -> GenerationRequest:
    return replace(random_request(chance, request_id), adapter_id=chance.choice([None, None, None, "one"]))


def test_short_prompts_share_a_piece_and_get_what_they_get_alone(tmp_path: Path) -> None:
    directory = save("llama", tmp_path)
    engine = engines.loader(directory, batch_size=4, max_length=64, skip_warmup=True).load()
    chance = random.Random(8)
    prompts = [chance.choices(range(3, 160), k=length) for length in (5, 30, 1, 40)]
    driver = Driver(engine)
    expected = [driver.alone(prompt, 5, PLAIN) for prompt in prompts]
    for slot, prompt in enumerate(prompts):
        engine.fill(slot, prompt, PLAIN)
    piece = engine.extend()
    assert dict(piece.held) == {0: 4, 1: 29, 3: 39}
    runs = [engine.start_step().choose().read() for _ in range(5)]
    assert [[step[slot][0].token_id for step in runs] for slot in range(4)] == expected


@pytest.mark.parametrize("length", [59, 61, 63])
def test_the_last_piece_of_a_prompt_that_fills_its_slot_is_computed_from_further_ahead(
    length: int, tmp_path: Path
) -> None:
    directory = save("llama", tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.loader(directory, batch_size=2, max_length=64, prefill_chunk=32, skip_warmup=True).load()
    prompt = random.Random(length).choices(range(3, 160), k=length)
    driver = Driver(engine)
    driver.join(0, prompt[:45])
    driver.step(1)
    # From a prefix whose length no piece ends at, so that the last row would reach past the slot.
    run = driver.join(1, prompt, prefix=Prefix(0, 41))
    driver.step(1)
    assert run.tokens == follow(reference, prompt, run.tokens).tokens


def test_in_bfloat16_a_prefix_changes_a_token_only_where_two_lie_within_rounding(tmp_path: Path) -> None:
    directory = save("llama", tmp_path, initializer_range=0.05, max_position_embeddings=MAX_LENGTH)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.engine(
        directory, batch_size=2, max_length=MAX_LENGTH, prefill_chunk=64, dtype="bfloat16"
    )
    driver, chance = Driver(engine), random.Random(4)
    changed = 0
    for _ in range(10):
        prompt = chance.choices(range(3, 160), k=100)
        whole = driver.join(0, prompt)
        driver.step(20)
        driver.leave(0)
        driver.join(0, prompt[: chance.randint(10, 90)])
        driver.leave(0)
        held = chance.randint(1, 9)
        reused = driver.join(1, prompt, prefix=Prefix(0, held))
        driver.step(20)
        driver.leave(1)
        differing = [place for place in range(20) if whole.tokens[place] != reused.tokens[place]]
        if differing:
            changed += 1
            place = differing[0]
            with torch.no_grad():
                logits = reference(torch.tensor([prompt + whole.tokens[:place]])).logits[0, -1]
            margin = logits[whole.tokens[place]] - logits[reused.tokens[place]]
            assert abs(float(margin)) < 0.1
    assert changed <= 3
