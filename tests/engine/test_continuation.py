"""An answer that is cut, and continued from its text as routers do, is the answer that is not cut."""

from typing import Any

from engine.conftest import LoadedEngine
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import GeneratedToken, GenerationRequest
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

TOKENS, MOST_AT_ONCE = 36, 9
ASKED: dict[str, SamplingParameters] = {
    "The capital of France is": SamplingParameters(),
    "Explain why the sky is blue. Answer:": SamplingParameters(repetition_penalty=1.3, frequency_penalty=0.5),
    "Once upon a time, in a village by the sea,": SamplingParameters(temperature=0.9, top_p=0.95, seed=7),
    "My favourite smileys are 🙂 and": SamplingParameters(do_sample=True, watermark=True, seed=2**63 + 1),
}


def answers(loaded: LoadedEngine, so_far: dict[str, str], count: int) -> dict[str, list[GeneratedToken]]:
    """The next tokens of all prompts in ASKED with their answers so far, in one batch."""
    generator = Generator(loaded.engine, ModelTokenizer.from_transformers(loaded.tokenizer), frozenset())
    requests = [
        GenerationRequest(request_id, prompt + so_far[prompt], count, sampling=sampling)
        for request_id, (prompt, sampling) in enumerate(ASKED.items())
    ]
    tokens: list[list[GeneratedToken]] = [[] for _ in ASKED]
    outcome = generator.prefill(0, requests)
    while True:
        for generation in outcome.generations:
            tokens[generation.request_id] += generation.tokens
        if outcome.batch is None:
            return dict(zip(ASKED, tokens, strict=True))
        outcome = generator.decode([0])


def text_of(tokens: list[GeneratedToken]) -> str:
    return "".join(token.text for token in tokens)


def is_tokenised_as_generated(tokenizer: Any, prompt: str, answer: list[GeneratedToken]) -> bool:
    """Whether the text gives the same tokens again at every place where it is cut."""
    return all(
        tokenizer(prompt + text_of(answer[:cut]))["input_ids"]
        == [*tokenizer(prompt)["input_ids"], *(token.id for token in answer[:cut])]
        for cut in range(MOST_AT_ONCE, TOKENS, MOST_AT_ONCE)
    )


def test_cut_answers_equal_whole_ones_if_their_text_is_tokenised_as_it_was_generated(
    loaded: LoadedEngine,
) -> None:
    """Greedy and drawn: a draw depends on the seed and the position alone, so it does not start again either."""
    whole = answers(loaded, dict.fromkeys(ASKED, ""), TOKENS)
    cut = dict.fromkeys(ASKED, "")
    for _ in range(TOKENS // MOST_AT_ONCE):
        more = answers(loaded, cut, MOST_AT_ONCE)
        cut = {prompt: cut[prompt] + text_of(more[prompt]) for prompt in ASKED}
    stable = [
        prompt for prompt in ASKED if is_tokenised_as_generated(loaded.tokenizer, prompt, whole[prompt])
    ]
    assert len(stable) >= 3, "the test needs other prompts"
    assert {prompt: cut[prompt] for prompt in stable} == {prompt: text_of(whole[prompt]) for prompt in stable}
