"""A linear layer whose weight has fewer bits, and how such layers come into a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from text_generation_server.model.linear import linear_shape, stores_outputs_first
from text_generation_server.model.quantisation.scheme import Part, Scheme


@dataclass(frozen=True)
class PartFacts:
    """A parameter of a quantised layer.

    Attributes:
        weight: the name of the weight of the layer that was replaced.
        outputs_first: so that weight has its dimensions.
        dtype: on the device.
    """

    weight: str
    outputs_first: bool
    scheme: Scheme
    part: Part
    dtype: str


class QuantisedLinear(nn.Module):
    """See `scheme`. The weight is put together by operations that XLA carries out inside the multiplication, so that a
    device reads the few bits only."""

    weight: Tensor
    scales: Tensor
    offsets: Tensor
    order: Tensor

    def __init__(
        self, inputs: int, outputs: int, scheme: Scheme, dtype: torch.dtype, bias: nn.Parameter | None
    ) -> None:
        """A layer without data."""
        super().__init__()
        self.scheme = scheme
        self.inputs = inputs
        self.dtypes = scheme.dtypes(str(dtype).removeprefix("torch."))
        for part, shape in scheme.shapes(inputs, outputs).items():
            # torch_xla records values as int8, since it knows no smaller dtypes; `runtime.stablehlo` puts that right.
            kind = torch.int8 if part == "weight" else getattr(torch, self.dtypes[part])
            empty = torch.empty(shape, dtype=kind, device="meta")
            self.register_parameter(part, nn.Parameter(empty, requires_grad=False))
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], in the dtype of `inputs`."""
        dtype = inputs.dtype
        # A conversion comes first: nothing else may touch values whose dtype is put right later.
        if self.scheme.group is None and dtype is not torch.float16:
            outputs = (torch.matmul(inputs, self.weight.to(dtype)) * self.scales[0]).to(dtype)
        elif self.scheme.group is None:
            # What the multiplication gives before it is scaled goes beyond the largest float16.
            outputs = torch.matmul(inputs, (self.weight.to(torch.float32) * self.scales).to(dtype))
        else:
            weight = self.weight.to(torch.float32) * self.scales.unsqueeze(1)
            if self.scheme.offsets:
                weight = weight + self.offsets.unsqueeze(1)
            if self.scheme.ordered:
                inputs = inputs.index_select(-1, self.order)
            # XLA fuses this into a multiplication over two dimensions, and not into one that follows a reshape.
            grouped = inputs.reshape(*inputs.shape[:-1], -1, self.scheme.group)
            outputs = torch.einsum("...gk,gkn->...n", grouped, weight.to(dtype))
        return outputs if self.bias is None else outputs + self.bias


def quantise(
    model: Any, scheme_of: Callable[[str], Scheme | None], dtype: torch.dtype
) -> dict[int, PartFacts]:
    """Replaces linear layers of a model without data, and says what their parameters are, by the id of each.

    The head stays: it is read once a token like any layer, but the choice between tokens suffers most from it.

    Args:
        scheme_of: of the name of a layer; None: it stays.
    """
    parts: dict[int, PartFacts] = {}
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        shape = linear_shape(layer)
        scheme = scheme_of(name) if shape is not None and layer is not head else None
        if shape is None or scheme is None:
            continue
        new = QuantisedLinear(*shape, scheme, dtype, layer.bias)
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, new)
        for part in scheme.shapes(*shape):
            parts[id(getattr(new, part))] = PartFacts(
                f"{name}.weight", stores_outputs_first(layer), scheme, part, new.dtypes[part]
            )
    return parts
