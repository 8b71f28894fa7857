"""The sampling that runs on the device computes what its tests on the host have proved.

torch_xla lowers some operations otherwise than torch computes them (a right shift of negative numbers, a maximum
of infinities), so equality on the host says nothing yet of the device.
"""

import torch
import torch_xla
from scipy.stats import chisquare
from torch import Tensor

from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.masking import WORD_BITS, mask_disallowed
from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.random import gumbel_noise, mix
from text_generation_server.sampling.ranking import rank
from text_generation_server.sampling.watermark import green

ROWS, VOCABULARY = 6, 5000


def device(tensor: Tensor) -> Tensor:
    return tensor.to(torch_xla.device())


def random_integers(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def test_the_hash_is_the_same_bit_by_bit() -> None:
    bits = random_integers((3, 10_000))
    assert torch.equal(mix(device(bits)).cpu(), mix(bits))


def test_the_noise_is_the_same() -> None:
    seeds = random_integers((ROWS, 1)), random_integers((ROWS, 1))
    position = torch.arange(ROWS, dtype=torch.int32).unsqueeze(1)
    ours = gumbel_noise(device(seeds[0]), device(seeds[1]), device(position), VOCABULARY).cpu()
    torch.testing.assert_close(ours, gumbel_noise(*seeds, position, VOCABULARY), rtol=1e-5, atol=1e-5)


def test_the_green_lists_are_the_same() -> None:
    previous = torch.arange(ROWS, dtype=torch.int32).unsqueeze(1)
    assert torch.equal(green(device(previous), VOCABULARY, 0.25).cpu(), green(previous, VOCABULARY, 0.25))


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
    ours = process(
        device(logits),
        History(*map(device, history)),
        ProcessingTensors(**{name: device(tensor) for name, tensor in parameters.items()}),
        WatermarkStrength(),
    ).cpu()
    assert torch.equal(ours.isinf(), expected.isinf())
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_masks_are_unpacked_alike() -> None:
    words = -(-VOCABULARY // WORD_BITS)
    assert VOCABULARY % WORD_BITS != 0
    allowed = random_integers((ROWS, words))
    allowed[0] = -1
    allowed[1] = 0
    allowed[2] = -(2**31)
    for logits in (torch.randn(ROWS, VOCABULARY), torch.randn(ROWS, VOCABULARY, dtype=torch.bfloat16)):
        ours = mask_disallowed(device(logits), device(allowed)).cpu()
        assert ours.dtype == logits.dtype
        assert torch.equal(ours, mask_disallowed(logits, allowed))


def test_choices_and_rankings_are_the_same() -> None:
    scores = torch.randn(ROWS, VOCABULARY) * 3
    seeds = random_integers((ROWS, 1)), random_integers((ROWS, 1))
    samples = torch.tensor([[True], [False]] * (ROWS // 2))
    position = torch.full((ROWS, 1), 5, dtype=torch.int32)
    ours = choose(device(scores), device(samples), (device(seeds[0]), device(seeds[1])), device(position))
    for one, other in zip(ours, choose(scores, samples, seeds, position), strict=True):
        torch.testing.assert_close(one.cpu(), other)
    for one, other in zip(choose_greedy(device(scores)), choose_greedy(scores), strict=True):
        torch.testing.assert_close(one.cpu(), other)
    for one, other in zip(rank(device(scores), 20), rank(scores, 20), strict=True):
        torch.testing.assert_close(one.cpu(), other)


def test_draws_on_the_device_follow_the_distribution() -> None:
    count = 20_000
    scores = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    low = torch.arange(count, dtype=torch.int32).unsqueeze(1)
    zero, always = torch.zeros(count, 1, dtype=torch.int32), torch.ones(count, 1, dtype=torch.bool)
    rows = device(scores.expand(count, -1).contiguous())
    chosen, _ = choose(rows, device(always), (device(low), device(zero)), device(zero))
    observed = torch.bincount(chosen.cpu()[:, 0].to(torch.int64), minlength=12)
    expected = torch.softmax(scores[0].double(), dim=-1) * count
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3
