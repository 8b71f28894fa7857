"""The kernel of experts computes what transformers' own modules do, whichever way the shapes make it choose."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from text_generation_server.runtime.experts import FEW, FEW_ON_CPU, Layer, experts

HIDDEN, WIDTH = 24, 40

CASES = [
    # All at once: the tokens choose as many experts as there are.
    (3, 4, 2),
    (FEW_ON_CPU, 8, 2),
    # Those chosen.
    (1, 4, 2),
    (5, 32, 3),
    # In blocks, of which the last of an expert is not full; the first on a CPU only.
    (FEW_ON_CPU + 1, 4, 2),
    (FEW + 1, 4, 2),
    (200, 16, 3),
]
"""Tokens, experts, and how many each token has."""


def module_of(kind: Any, count: int) -> Any:
    """transformers' own, with random weights; it computes them by plain torch."""
    name = "gpt_oss" if kind is GptOssExperts else "mixtral"
    config = AutoConfig.for_model(
        name, hidden_size=HIDDEN, intermediate_size=WIDTH, num_local_experts=count, hidden_act="silu"
    )
    config._experts_implementation = "eager"
    module = kind(config)
    generator = torch.Generator().manual_seed(count)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module


def parameters_of(module: Any, inputs_first: bool) -> dict[str, NDArray[Any]]:
    """Gate, up and down as the kernel takes them."""
    given = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    if isinstance(module, GptOssExperts):
        gate, up = given["gate_up_proj"][:, :, ::2], given["gate_up_proj"][:, :, 1::2]
        bias = given["gate_up_proj_bias"]
        found = {"gate_bias": bias[:, ::2], "up_bias": bias[:, 1::2], "down_bias": given["down_proj_bias"]}
        found["down"] = given["down_proj"]
    else:
        gate, up = np.split(given["gate_up_proj"].swapaxes(1, 2), 2, axis=2)
        found = {"down": given["down_proj"].swapaxes(1, 2)}
    if not inputs_first:
        gate, up = gate.swapaxes(1, 2), up.swapaxes(1, 2)
    return {"gate": gate, "up": up, **found}


def computed(module: Any, inputs_first: bool, chips: int, *given: torch.Tensor) -> torch.Tensor:
    parameters = parameters_of(module, inputs_first)
    gating: dict[str, Any] = {"activation": "silu", "alpha": 0.0, "limit": 0.0}
    if isinstance(module, GptOssExperts):
        gating = {"activation": "clamped", "alpha": module.alpha, "limit": module.limit}
    hidden, chosen, weights = (jnp.asarray(each.numpy()) for each in given)
    kernel = partial(experts, names=list(parameters), inputs_first=inputs_first, chips=chips, **gating)
    arrays = (jnp.asarray(each) for each in parameters.values())
    result = jax.jit(kernel)(hidden, chosen.astype(jnp.int32), weights, *arrays)
    return torch.from_numpy(np.array(result))


def drawn(tokens: int, count: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, the experts of each token, and their weights."""
    generator = torch.Generator().manual_seed(seed)
    weights, chosen = torch.rand(tokens, count, generator=generator).topk(k)
    return torch.randn(tokens, HIDDEN, generator=generator), chosen, weights


@pytest.mark.parametrize(
    ("kind", "chips", "inputs_first"),
    [
        (MixtralExperts, 1, True),
        (MixtralExperts, 4, False),
        (GptOssExperts, 1, False),
        (GptOssExperts, 4, True),
    ],
)
@pytest.mark.parametrize(("tokens", "count", "k"), CASES)
def test_experts_give_what_transformers_gives(
    tokens: int, count: int, k: int, kind: Any, chips: int, inputs_first: bool
) -> None:
    module, given = module_of(kind, count), drawn(tokens, count, k)
    with torch.no_grad():
        expected = module(*given)
    torch.testing.assert_close(computed(module, inputs_first, chips, *given), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tokens", [3, FEW_ON_CPU, 200])
def test_an_expert_that_every_token_chooses_serves_them_all(tokens: int) -> None:
    module = module_of(MixtralExperts, 16)
    hidden, chosen, weights = drawn(tokens, 16, 2)
    chosen = torch.tensor([7, 3]).expand(tokens, 2)
    with torch.no_grad():
        expected = module(hidden, chosen, weights)
    given = computed(module, True, 1, hidden, chosen, weights)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("tokens", "count", "k"), CASES)
def test_a_token_has_the_same_result_whatever_the_others_are(tokens: int, count: int, k: int) -> None:
    module = module_of(MixtralExperts, count)
    given = drawn(tokens, count, k)
    others = drawn(tokens, count, k, seed=1)
    # So large that it leaves traces in whatever it touches.
    mixed = [
        torch.cat([own[:1], 1e30 * other[1:] if own.is_floating_point() else other[1:]])
        for own, other in zip(given, others, strict=True)
    ]
    alone, among = (computed(module, True, 1, *each)[0] for each in (given, mixed))
    assert torch.isfinite(among).all()
    torch.testing.assert_close(among, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokens", [3, FEW_ON_CPU, 200])
def test_experts_that_only_tokens_without_any_might_have_are_not_read(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(MixtralExperts, 64)
    hidden, chosen, weights = drawn(tokens, 64, 2)
    with torch.no_grad():
        expected = module(hidden, chosen, weights)
    has_some = torch.arange(tokens) % 3 == 1
    chosen[~has_some] = 64
    own, read = Layer.expert, []

    def noted(layer: Layer, index: jax.Array, given: jax.Array) -> jax.Array:
        jax.debug.callback(lambda each: read.append(int(each)), index)
        return own(layer, index, given)

    monkeypatch.setattr(Layer, "expert", noted)
    monkeypatch.setattr("text_generation_server.runtime.experts.SMALL", 0)
    given = computed(module, True, 1, hidden, chosen, weights)
    jax.effects_barrier()
    torch.testing.assert_close(given[has_some], expected[has_some], rtol=1e-4, atol=1e-3)
    assert set(read) == set(chosen[has_some].flatten().tolist())


@pytest.mark.parametrize(("tokens", "count", "k"), CASES)
def test_an_expert_whose_numbers_overflow_spoils_only_tokens_that_chose_it(
    tokens: int, count: int, k: int
) -> None:
    module = module_of(MixtralExperts, count)
    hidden, chosen, weights = drawn(tokens, count - 1, k)
    # All but the first token may have the last expert.
    chosen[1:, 0] = count - 1
    with torch.no_grad():
        expected = module(hidden[:1], chosen[:1], weights[:1])[0]
        module.gate_up_proj[-1].fill_(3e38)
    given = computed(module, True, 1, hidden, chosen, weights)
    assert tokens == 1 or not torch.isfinite(given[1:]).any(dim=1).all()
    torch.testing.assert_close(given[0], expected, rtol=1e-4, atol=1e-3)
