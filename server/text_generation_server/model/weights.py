"""The layout in which weights are stored for a backend."""

import torch
from torch import Tensor, nn


class TransposedLinear(nn.Module):
    """A linear layer whose weight is stored as [inputs, outputs].

    XLA on the CPU materialises the transposition of nn.Linear's [outputs, inputs] in every step, which
    triples the time of a decode step. A TPU's compiler chooses its own layout and needs none of this.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t().contiguous(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = torch.matmul(inputs, self.weight)
        return outputs if self.bias is None else outputs + self.bias


def store_transposed(module: nn.Module) -> None:
    """Replaces every nn.Linear below `module`; a head that is tied to the embedding gets its own copy."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, TransposedLinear(child))
        else:
            store_transposed(child)
