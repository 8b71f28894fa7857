"""A request's tokens do not depend on its slot, on its neighbours, or on when they join and leave."""

import pytest

from engine.conftest import LoadedEngine
from support.driver import Driver, prefill
from text_generation_server.sampling.parameters import SamplingParameters

PLAIN = SamplingParameters()
SAMPLED = SamplingParameters(do_sample=True, seed=2**63 + 12345)
FILTERED = SamplingParameters(
    temperature=0.8,
    top_k=50,
    top_p=0.95,
    typical_p=0.97,
    repetition_penalty=1.1,
    frequency_penalty=0.5,
    seed=7,
)


@pytest.fixture
def driver(loaded: LoadedEngine) -> Driver:
    return Driver(loaded.engine)


@pytest.fixture(scope="module")
def prompts(warmed_up: LoadedEngine) -> list[list[int]]:
    texts = [
        "What is Deep Learning?",
        "The capital of France is",
        "def fibonacci(n):",
        "Once upon a time " * 20,
    ]
    return [warmed_up.tokenizer(text)["input_ids"] for text in texts]


@pytest.mark.parametrize("sampling", [PLAIN, SAMPLED, FILTERED], ids=["greedy", "sampled", "filtered"])
def test_a_request_gets_the_same_tokens_alone_and_in_any_slot_of_a_full_batch(
    driver: Driver, prompts: list[list[int]], sampling: SamplingParameters
) -> None:
    alone = driver.alone(prompts[0], 20, sampling)
    for slot in range(4):
        others = [other for other in range(4) if other != slot]
        for other in others[:2]:
            driver.join(other, prompts[other], FILTERED if other % 2 else PLAIN)
        driver.step(3)
        run = driver.join(slot, prompts[0], sampling)
        driver.step(5)
        driver.leave(others[0])
        driver.step(2)
        driver.join(others[0], prompts[3], SAMPLED)
        driver.join(others[2], prompts[1], PLAIN)
        driver.step(13)
        assert run.tokens == alone, f"slot {slot}"
        for other in range(4):
            driver.leave(other)


def test_another_seed_gives_other_tokens(driver: Driver, prompts: list[list[int]]) -> None:
    one = driver.alone(prompts[1], 20, SamplingParameters(do_sample=True, seed=1))
    two = driver.alone(prompts[1], 20, SamplingParameters(do_sample=True, seed=2))
    assert one != two


def test_a_prefill_leaves_the_running_requests_cache_untouched(
    driver: Driver, prompts: list[list[int]]
) -> None:
    undisturbed = driver.join(2, prompts[3])
    driver.step(30)
    tokens = list(undisturbed.tokens)
    driver.leave(2)
    disturbed = driver.join(2, prompts[3])
    for _ in range(10):
        driver.join(1, prompts[0])
        driver.step(3)
        driver.leave(1)
    assert disturbed.tokens == tokens


def test_a_step_may_be_started_before_the_one_before_it_was_read(
    driver: Driver, prompts: list[list[int]]
) -> None:
    expected = driver.alone(prompts[0], 9, PLAIN)
    engine = driver.engine
    prefill(engine, 0, prompts[0])
    pending = [engine.start_step().choose() for _ in range(9)]
    tokens = [token.token_id for step in pending for token in step.read()[0]]
    engine.release(0)
    assert tokens == expected


def test_a_request_can_fill_its_slot_to_the_last_position(driver: Driver) -> None:
    limit = driver.engine.info.max_length
    run = driver.join(3, [5] * (limit - 2))
    neighbour = driver.join(0, [6] * 10)
    driver.step(2)
    driver.leave(3)
    driver.step(5)
    driver.leave(0)
    assert len(run.tokens) == 2
    assert neighbour.tokens == driver.alone([6] * 10, 7, PLAIN)
