"""bfloat16 and the layout of a TPU keep the laws; prompts of several blocks of queries answer as with transformers."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from support import engines
from support.checkpoints import behind_the_best, follow, save
from support.driver import Driver, score
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.runtime.mesh import DeviceMesh
from text_generation_server.sampling.parameters import SamplingParameters

SAMPLED = SamplingParameters(temperature=0.9, top_k=40, top_p=0.95, seed=5)


@pytest.mark.parametrize("layout", CacheLayout)
def test_in_bfloat16_too_a_request_gets_the_same_alone_and_beside_a_neighbour_that_reads_further(
    layout: CacheLayout, tmp_path: Path
) -> None:
    directory = save("llama", tmp_path, max_position_embeddings=512, initializer_range=0.05)
    engine = engines.engine(directory, batch_size=2, max_length=512, dtype="bfloat16", layout=layout)
    driver, chance = Driver(engine), random.Random(3)
    for sampling in (SamplingParameters(), SAMPLED):
        prompt = chance.choices(range(3, 160), k=20)
        alone = driver.join(0, prompt, sampling)
        driver.step(30)
        driver.leave(0)
        # The neighbour makes the step read 512 positions where 128 would do.
        driver.join(1, chance.choices(range(3, 160), k=300))
        beside = driver.join(0, prompt, sampling)
        driver.step(30)
        driver.leave(0)
        driver.leave(1)
        assert beside.tokens == alone.tokens
        assert beside.logprobs == alone.logprobs


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "qwen2"])
def test_in_bfloat16_tokens_are_those_of_transformers_but_where_two_lie_within_rounding(
    model_type: str, tmp_path: Path
) -> None:
    directory = save(model_type, tmp_path, initializer_range=0.05)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    driver = Driver(engines.engine(directory, batch_size=1, max_length=64, dtype="bfloat16"))
    prompt = random.Random(model_type).choices(range(3, 160), k=20)
    run = driver.join(0, prompt)
    driver.step(20)
    assert max(behind_the_best(reference, prompt, run.tokens)) < 0.1


@pytest.mark.parametrize("layout", CacheLayout)
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_prompt_of_several_pieces_and_blocks_of_keys_is_answered_and_scored_as_transformers_does(
    model_type: str, layout: CacheLayout, tmp_path: Path
) -> None:
    directory = save(model_type, tmp_path, max_position_embeddings=2048)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.loader(
        directory, batch_size=1, max_length=1500, layout=layout, scores_prompts=True, skip_warmup=True
    ).load()
    driver = Driver(engine)
    prompt = random.Random(1).choices(range(3, 160), k=1300)
    run = driver.join(0, prompt)
    driver.step(8)
    driver.leave(0)
    expected = follow(reference, prompt, run.tokens)
    assert run.tokens == expected.tokens
    torch.testing.assert_close(run.logprobs, expected.logprobs, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        scores = torch.log_softmax(reference(torch.tensor([prompt])).logits[0, :-1], dim=-1)
    known = scores.gather(1, torch.tensor(prompt[1:]).unsqueeze(1))[:, 0]
    torch.testing.assert_close(torch.tensor(score(engine, 0, prompt)), known, rtol=1e-3, atol=1e-3)


def test_a_prompt_of_more_than_8192_tokens_is_answered_as_by_transformers(tmp_path: Path) -> None:
    directory = save("llama", tmp_path, max_position_embeddings=9000, num_hidden_layers=1)
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    engine = engines.loader(directory, batch_size=1, max_length=9000, skip_warmup=True).load()
    prompt = random.Random(2).choices(range(3, 160), k=8500)
    driver = Driver(engine)
    run = driver.join(0, prompt)
    driver.step(2)
    assert run.tokens == follow(reference, prompt, run.tokens).tokens


@pytest.mark.parametrize("on_cpu", [True, False], ids=["cpu", "as on a TPU"])
def test_a_head_that_differs_from_the_embedding_is_kept_whatever_the_config_says(
    on_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    directory = save("llama", tmp_path, tie_word_embeddings=True)
    path = directory / "model.safetensors"
    weights = load_file(path)
    torch.manual_seed(7)
    weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"]) * 0.3
    save_file(weights, path, metadata={"format": "pt"})
    monkeypatch.setattr(DeviceMesh, "is_cpu", property(lambda _: on_cpu))
    engine = engines.loader(directory, batch_size=1, max_length=64, dtype="float32", skip_warmup=True).load()
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert reference.lm_head.weight is not reference.model.embed_tokens.weight
    driver = Driver(engine)
    run = driver.join(0, [5, 9, 30])
    driver.step(12)
    assert run.tokens == follow(reference, [5, 9, 30], run.tokens).tokens


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path: Path) -> None:
    one, several = save("llama", tmp_path / "one"), tmp_path / "several"
    model = AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32)
    model.save_pretrained(several, max_shard_size="50KB")
    assert len(list(several.glob("*.safetensors"))) > 2
    runs = []
    for directory in (one, several):
        driver = Driver(engines.loader(directory, batch_size=1, max_length=32, skip_warmup=True).load())
        runs.append(driver.join(0, [5, 6, 7]))
        driver.step(5)
    assert runs[0].tokens == runs[1].tokens
