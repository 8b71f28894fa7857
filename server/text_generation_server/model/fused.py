"""Linear layers that compute several things at once, such as queries, keys and values, for models that chips share.

Such a layer has all queries before all keys, so that a part of its outputs is some queries and no keys. For several
chips its outputs are put in another order when they are loaded: in groups, each of which has its share of everything.
So each chip gets whole heads with what belongs to them, and what the layer returns is put back in order. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fused:
    """What a layer computes.

    Attributes:
        parts: the numbers of outputs of each thing, in the order of the checkpoint.
        groups: into how many groups they are divided, each with its share of each part.
    """

    parts: tuple[int, ...]
    groups: int

    def order(self) -> NDArray[np.int64]:
        """For each output as it lies on the chips, its place in the checkpoint."""
        ends = np.cumsum(self.parts)
        shares = [
            np.arange(end - size, end).reshape(self.groups, -1)
            for end, size in zip(ends, self.parts, strict=True)
        ]
        return np.concatenate(shares, axis=1).reshape(-1)

    def in_order(self, outputs: Any, concatenate: Any) -> Any:
        """A tensor [..., outputs] of the layer with its outputs as the model expects them.

        `concatenate`: torch.cat.
        """
        leading = outputs.shape[:-1]
        grouped = outputs.reshape(*leading, self.groups, -1)
        shares = grouped.split([size // self.groups for size in self.parts], dim=-1)
        return concatenate([share.reshape(*leading, -1) for share in shares], dim=-1)


HEADS, HALVES = "heads", "halves"

LAYERS: Mapping[str, Mapping[str, str]] = {
    "phi3": {"qkv_proj": HEADS, "gate_up_proj": HALVES},
    "gpt2": {"c_attn": HEADS},
    "glm": {"gate_up_proj": HALVES},
    "glm4": {"gate_up_proj": HALVES},
}
"""By model type, last part of the name of a layer and what it computes: queries, keys and values of all heads one after
the other, or two halves. GPT-NeoX, Falcon and BLOOM have them head by head, and need no other order."""

MOST_GROUPS = 8
"""Of halves: as many as chips of a host."""


def fused_layer(config: Any, name: str, outputs: int) -> Fused | None:
    """What a layer of that name computes, of a model with transformers' `config`; None: one thing."""
    kind = LAYERS.get(config.model_type, {}).get(name.rpartition(".")[2])
    if kind == HEADS:
        heads = config.num_attention_heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        size = outputs // (heads + 2 * keys)
        return Fused((heads * size, keys * size, keys * size), keys)
    if kind == HALVES and outputs % (2 * MOST_GROUPS) == 0:
        return Fused((outputs // 2, outputs // 2), MOST_GROUPS)
    return None
