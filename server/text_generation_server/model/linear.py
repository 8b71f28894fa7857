"""Linear layers and embeddings whose weight lies as XLA on a CPU wants it."""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class TransposedLinear(nn.Module):
    """A linear layer whose weight is stored as [inputs, outputs].

    XLA on the CPU materialises the transposition of nn.Linear's [outputs, inputs] in every step, which
    triples the time of a decode step.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        """`weight` is [inputs, outputs]."""
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = torch.matmul(inputs, self.weight)
        return outputs if self.bias is None else outputs + self.bias


class TransposedEmbedding(nn.Module):
    """An embedding that shares its table with a head, and so lies as the head does: [hidden, vocabulary]."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight.index_select(1, ids.flatten()).t().reshape(*ids.shape, self.weight.shape[0])


def turned(parameter: Tensor) -> nn.Parameter:
    """A parameter without data, of the transposed shape."""
    shape = tuple(reversed(parameter.shape))
    return nn.Parameter(torch.empty(shape, dtype=parameter.dtype, device="meta"), requires_grad=False)


def store_transposed(model: nn.Module) -> dict[int, Tensor]:
    """Replaces every nn.Linear of a model without data, and an embedding that shares its table with one of them.

    Returns the parameters that were turned, by the id of the new one. The model keeps one table for a head that is
    tied to a plain embedding; to an embedding of another class, which computes with its table, the head gets its own.
    """
    replaced: dict[int, nn.Parameter] = {}  # by the id of the original
    originals: dict[int, Tensor] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            new = replaced.setdefault(id(child.weight), turned(child.weight))
            originals[id(new)] = child.weight
            setattr(parent, name, TransposedLinear(new, child.bias))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Embedding and id(child.weight) in replaced:
                setattr(parent, name, TransposedEmbedding(replaced[id(child.weight)]))
    return originals


def linear_shape(layer: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, GPT-2's transposed kind included; None for other layers."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return None


def stores_outputs_first(layer: nn.Module) -> bool:
    """Whether the weight of a linear layer is [outputs, inputs], or else as Conv1D has it."""
    return isinstance(layer, nn.Linear)
