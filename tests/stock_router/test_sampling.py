"""Drawn answers: the seed decides, and nothing else."""

from stock_router.questions import PROMPTS
from stock_router.stock_service import StockService

DRAWN = {"do_sample": True, "temperature": 1.2, "top_p": 0.95, "max_new_tokens": 10}


def test_a_seed_gives_the_same_answer_alone_and_among_others(service: StockService) -> None:
    requests = [(prompt, DRAWN | {"seed": seed}) for seed, prompt in enumerate(PROMPTS[:5])]
    alone = [service.http.generate(prompt, **parameters)["generated_text"] for prompt, parameters in requests]
    together = service.http.generate_all([*requests, *reversed(requests)])
    assert [body["generated_text"] for body in together] == [*alone, *reversed(alone)]


def test_seeds_differ_and_are_returned(service: StockService) -> None:
    bodies = [
        service.http.generate(PROMPTS[2], **DRAWN, seed=seed, details=True) for seed in (1, 2, 2**64 - 1)
    ]
    assert len({body["generated_text"] for body in bodies}) == 3
    assert [body["details"]["seed"] for body in bodies] == [1, 2, 2**64 - 1]


def test_without_a_seed_answers_differ(service: StockService) -> None:
    texts = {service.http.generate(PROMPTS[2], **DRAWN)["generated_text"] for _ in range(3)}
    assert len(texts) == 3


def test_the_best_of_several_draws_is_returned(service: StockService) -> None:
    details = service.http.generate(PROMPTS[2], **DRAWN, best_of=2, details=True)["details"]
    assert len(details["best_of_sequences"]) == 1
    best, other = (
        sum(token["logprob"] for token in each["tokens"]) / len(each["tokens"])
        for each in (details, details["best_of_sequences"][0])
    )
    assert best >= other


def test_top_k_of_one_is_greedy(service: StockService) -> None:
    drawn = service.http.generate(PROMPTS[1], do_sample=True, top_k=1, max_new_tokens=12)
    assert drawn["generated_text"] == service.http.generate(PROMPTS[1], max_new_tokens=12)["generated_text"]


def test_a_repetition_penalty_changes_a_greedy_answer(service: StockService) -> None:
    plain, penalized = (
        service.http.generate(PROMPTS[5], max_new_tokens=24, repetition_penalty=penalty)["generated_text"]
        for penalty in (1.0, 1.5)
    )
    assert plain != penalized
