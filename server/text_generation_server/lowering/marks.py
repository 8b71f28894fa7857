"""How marks (`engine.marks`) are recorded: as calls that return what they are given."""

import torch
from torch import Tensor
from torch_xla import _XLAC

from text_generation_server.engine import marks  # noqa: F401 - defines the operation
from text_generation_server.lowering.lowered import MARK


@torch.library.impl("tpu_tgi::mark", "XLA")
def mark(x: Tensor, name: str) -> Tensor:
    marked: list[Tensor] = _XLAC._xla_custom_call([x], MARK, [list(x.shape)], [x.dtype], False, name, 1, {})
    return marked[0]
