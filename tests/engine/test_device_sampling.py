"""The sampling that runs on the device computes what its tests on the host have proved.

torch_xla lowers some operations otherwise than torch computes them (a right shift of negative numbers, a maximum
of infinities), so equality on the host says nothing yet of the device.
"""

import torch
from scipy.stats import chisquare
from torch import Tensor

from support.device import on_device
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.masking import mask_disallowed
from text_generation_server.sampling.packing import WORD_BITS
from text_generation_server.sampling.packing import words as words_of
from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.random import gumbel_noise, mix
from text_generation_server.sampling.ranking import rank
from text_generation_server.sampling.watermark import green

ROWS, VOCABULARY = 6, 5000


def random_integers(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def test_the_hash_is_the_same_bit_by_bit() -> None:
    bits = random_integers((3, 10_000))
    (ours,) = on_device(mix, bits)
    assert torch.equal(ours, mix(bits))


def test_the_noise_is_the_same() -> None:
    seeds = random_integers((ROWS, 1)), random_integers((ROWS, 1))
    position = torch.arange(ROWS, dtype=torch.int32).unsqueeze(1)
    (ours,) = on_device(lambda low, high, at: gumbel_noise(low, high, at, VOCABULARY), *seeds, position)
    torch.testing.assert_close(ours, gumbel_noise(*seeds, position, VOCABULARY), rtol=1e-5, atol=1e-5)


def test_the_green_lists_are_the_same() -> None:
    previous = torch.arange(ROWS, dtype=torch.int32).unsqueeze(1)
    (ours,) = on_device(lambda given: green(given, VOCABULARY, 0.25), previous)
    assert torch.equal(ours, green(previous, VOCABULARY, 0.25))


def test_processed_scores_are_the_same() -> None:
    logits = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    counts = torch.randint(0, 3, (ROWS, VOCABULARY), dtype=torch.int32)
    history = [
        counts,
        counts.sum(dim=1, keepdim=True).to(torch.int32),
        torch.full((ROWS, 1), 7, dtype=torch.int32),
    ]
    column = torch.ones(ROWS, 1)
    parameters = {
        "temperature": column * torch.tensor([[1.0], [0.5], [1.0], [1.5], [1.0], [0.9]]),
        "top_p": column * torch.tensor([[1.0], [0.9], [0.5], [1.0], [1.0], [0.95]]),
        "typical_p": column * torch.tensor([[1.0], [1.0], [1.0], [0.8], [1.0], [0.9]]),
        "repetition_penalty": column * 1.2,
        "frequency_penalty": column * 0.5,
        "top_k": torch.tensor([[0], [40], [0], [0], [1], [300]], dtype=torch.int32),
        "watermark": torch.tensor([[True], [False], [True], [False], [False], [True]]),
    }
    expected = process(logits, History(*history), ProcessingTensors(**parameters), WatermarkStrength())

    def processed(
        logits: Tensor, counts: Tensor, length: Tensor, previous: Tensor, *values: Tensor
    ) -> Tensor:
        tensors = ProcessingTensors(**dict(zip(parameters, values, strict=True)))
        return process(logits, History(counts, length, previous), tensors, WatermarkStrength())

    (ours,) = on_device(processed, logits, *history, *parameters.values())
    assert torch.equal(ours.isinf(), expected.isinf())
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_masks_are_unpacked_alike() -> None:
    words = words_of(VOCABULARY)
    assert VOCABULARY % WORD_BITS != 0
    allowed = random_integers((ROWS, words))
    allowed[0] = -1
    allowed[1] = 0
    allowed[2] = -(2**31)
    for logits in (torch.randn(ROWS, VOCABULARY), torch.randn(ROWS, VOCABULARY, dtype=torch.bfloat16)):
        (ours,) = on_device(mask_disallowed, logits, allowed)
        assert ours.dtype == logits.dtype
        assert torch.equal(ours, mask_disallowed(logits, allowed))


def test_choices_and_rankings_are_the_same() -> None:
    scores = torch.randn(ROWS, VOCABULARY) * 3
    seeds = random_integers((ROWS, 1)), random_integers((ROWS, 1))
    samples = torch.tensor([[True], [False]] * (ROWS // 2))
    position = torch.full((ROWS, 1), 5, dtype=torch.int32)
    ours = on_device(choose_drawn, scores, samples, *seeds, position)
    for one, other in zip(ours, choose(scores, samples, seeds, position), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(on_device(choose_greedy, scores), choose_greedy(scores), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(on_device(lambda s: rank(s, 20), scores), rank(scores, 20), strict=True):
        torch.testing.assert_close(one, other)


def choose_drawn(
    scores: Tensor, samples: Tensor, low: Tensor, high: Tensor, position: Tensor
) -> tuple[Tensor, Tensor]:
    return choose(scores, samples, (low, high), position)


def test_draws_on_the_device_follow_the_distribution() -> None:
    count = 20_000
    scores = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    low = torch.arange(count, dtype=torch.int32).unsqueeze(1)
    zero, always = torch.zeros(count, 1, dtype=torch.int32), torch.ones(count, 1, dtype=torch.bool)
    rows = scores.expand(count, -1).contiguous()
    chosen, _ = on_device(choose_drawn, rows, always, low, zero, zero)
    observed = torch.bincount(chosen[:, 0].to(torch.int64), minlength=12)
    expected = torch.softmax(scores[0].double(), dim=-1) * count
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3
