"""Draws follow the distribution, repeat with the seed, and depend on nothing else."""

import torch
from scipy.stats import chisquare, kstest

from text_generation_server.engine.state import as_signed
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.random import gumbel_noise

VOCABULARY = 50


def column(values: list[int]) -> torch.Tensor:
    return torch.tensor([as_signed(value & 0xFFFFFFFF) for value in values], dtype=torch.int32).unsqueeze(1)


def draw(scores: torch.Tensor, seeds: list[int], positions: list[int]) -> list[int]:
    """One draw per (seed, position) from one row of scores."""
    rows = scores.expand(len(seeds), -1)
    halves = column(seeds), column([seed >> 32 for seed in seeds])
    chosen, _ = choose(rows, torch.ones(len(seeds), 1, dtype=torch.bool), halves, column(positions))
    return [int(token) for token in chosen[:, 0]]


def assert_follows(drawn: list[int], scores: torch.Tensor) -> None:
    observed = torch.bincount(torch.tensor(drawn), minlength=VOCABULARY).double()
    expected = torch.softmax(scores[0].double(), dim=-1) * len(drawn)
    # Chi-square needs five or so in each class: the rare tokens are one class.
    rare = expected < 5
    classes = [(observed[~rare], expected[~rare]), (observed[rare].sum()[None], expected[rare].sum()[None])]
    counted = torch.cat([c[0] for c in classes]).numpy()
    hoped = torch.cat([c[1] for c in classes]).numpy()
    assert chisquare(counted[hoped > 0], hoped[hoped > 0]).pvalue > 1e-3


def test_draws_over_seeds_follow_the_distribution() -> None:
    scores = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 2
    assert_follows(draw(scores, list(range(20_000)), [17] * 20_000), scores)


def test_draws_over_random_64_bit_seeds_follow_the_distribution() -> None:
    scores = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2
    seeds = torch.randint(0, 2**62, (20_000,), generator=torch.Generator().manual_seed(2)).tolist()
    assert_follows(draw(scores, seeds, [5] * 20_000), scores)


def test_draws_over_the_positions_of_one_request_follow_the_distribution() -> None:
    scores = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(3)) * 2
    assert_follows(draw(scores, [42] * 20_000, list(range(20_000))), scores)


def test_consecutive_draws_of_one_request_are_independent() -> None:
    scores = torch.zeros(1, 8)
    drawn = torch.tensor(draw(scores, [7] * 32_000, list(range(32_000))))
    pairs = torch.bincount(drawn[:-1] * 8 + drawn[1:], minlength=64)
    assert chisquare(pairs.numpy()).pvalue > 1e-3


def test_neighbouring_seeds_draw_independently() -> None:
    scores = torch.zeros(1, 8)
    drawn = torch.tensor(draw(scores, list(range(32_000)), [3] * 32_000))
    pairs = torch.bincount(drawn[:-1] * 8 + drawn[1:], minlength=64)
    assert chisquare(pairs.numpy()).pvalue > 1e-3


def test_noise_over_a_large_vocabulary_is_gumbel_distributed_and_finite() -> None:
    noise = gumbel_noise(column([123]), column([456]), column([9]), 200_000)[0]
    assert torch.isfinite(noise).all()
    assert kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


def test_both_halves_of_the_seed_matter() -> None:
    scores = torch.zeros(1, 100_000)
    one, low, high = draw(scores, [5, 6, 5 + 2**32], [0, 0, 0])
    assert len({one, low, high}) == 3


def test_a_draw_does_not_depend_on_the_other_rows() -> None:
    scores = torch.randn(1, VOCABULARY)
    alone = draw(scores, [99], [4])
    assert draw(scores, [1, 99, 3], [8, 4, 2])[1:2] == alone


def test_a_filtered_token_is_never_drawn() -> None:
    scores = torch.full((1, VOCABULARY), -torch.inf)
    scores[0, 3], scores[0, 30] = 0.0, -8.0
    assert set(draw(scores, list(range(5_000)), [1] * 5_000)) <= {3, 30}


def test_rows_that_do_not_sample_take_the_best_token() -> None:
    scores = torch.randn(4, VOCABULARY)
    chosen, logprob = choose(
        scores, torch.zeros(4, 1, dtype=torch.bool), (column([1] * 4), column([0] * 4)), column([0] * 4)
    )
    greedy, greedy_logprob = choose_greedy(scores)
    assert torch.equal(chosen, greedy)
    torch.testing.assert_close(logprob, greedy_logprob)
    torch.testing.assert_close(logprob[:, 0], torch.log_softmax(scores, -1).amax(-1))
