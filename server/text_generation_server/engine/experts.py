"""The experts of a layer, registered with transformers under one name.

transformers' models choose experts for each token with code of their own, and call a registered function that computes
them. Its modules are unmodified but for their parameters, which `model.experts` lays out for a device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from text_generation_server.engine import kernels

IMPLEMENTATION = "static_experts"

PARTS = ("gate", "up", "down")
"""The three matrices of an expert: down(activation(gate(x)) * up(x))."""


@dataclass(frozen=True)
class Gating:
    """What an expert makes of the outputs of its first two matrices.

    Attributes:
        activation: of the gate: "silu", "gelu", "gelu_tanh", "relu", or "clamped": the one of gpt-oss.
        alpha, limit: of "clamped".
    """

    activation: str
    alpha: float = 0.0
    limit: float = 0.0


@dataclass(frozen=True)
class ExpertsLayout:
    """How the parameters of a module lie, which `model.experts` has put there.

    Attributes:
        parameters: the names of those that it has: of PARTS, and "bias" or "scales" behind them.
        inputs_first: gate and up are [experts, inputs, outputs], and else [experts, outputs, inputs]; down is
            [experts, inputs, outputs] always.
    """

    parameters: tuple[str, ...]
    inputs_first: bool
    gating: Gating


_idle: ContextVar[Tensor | None] = ContextVar("idle", default=None)


@contextmanager
def without_idle(idle: Tensor) -> Iterator[None]:
    """Within, rows that are `idle` [rows] bool choose no experts: nobody needs what would be read for them."""
    token = _idle.set(idle)
    try:
        yield
    finally:
        _idle.reset(token)


def register() -> None:
    """Makes `experts_implementation="static_experts"` known to transformers; may be called again."""
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, compute)


def compute(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """What the chosen experts make of each token, weighed.

    Args:
        module: with `layout`, an ExpertsLayout.
        hidden: [tokens, hidden].
        chosen: [tokens, k], which experts.
        weights: [tokens, k].

    Returns:
        [tokens, hidden] in the dtype of `hidden`.
    """
    layout: ExpertsLayout = module.layout
    parameters = {name: getattr(module, name) for name in layout.parameters}
    if (idle := _idle.get()) is not None:
        # Each row has as many tokens, which follow each other.
        by_token = idle.unsqueeze(1).expand(-1, chosen.shape[0] // idle.shape[0]).reshape(-1, 1)
        chosen = torch.where(by_token, module.down.shape[0], chosen)
    return kernels.experts(hidden, chosen, weights, parameters, layout.inputs_first, **vars(layout.gating))
