"""Marks in a program: where a tensor must lie on several chips in a certain way, it says so by a name.

A recorded program holds the names; `engine.sharding.Sharding.mark` says what a name means for so many chips, and the
runtime writes that down when it compiles. On one chip marks mean nothing and cost nothing.
"""

import torch
from torch import Tensor

PROJECTED = "projected"
"""Outputs of the linear layers before attention, [rows, tokens, outputs]."""

QUERIES = "queries"
"""[rows, heads, tokens, head_dim]."""

MIXED = "mixed"
"""What attention returns to the linear layer after it, [rows, tokens, heads * head_dim]."""

EVERYWHERE = "everywhere"
"""Whole on each chip, whatever it is."""

torch.library.define("tpu_tgi::mark", "(Tensor x, str name) -> Tensor")


@torch.library.impl("tpu_tgi::mark", "CompositeExplicitAutograd")
def ignore(x: Tensor, name: str) -> Tensor:
    return x


def mark(x: Tensor, name: str) -> Tensor:
    """The same tensor, with a mark."""
    marked: Tensor = torch.ops.tpu_tgi.mark(x, name)
    return marked
