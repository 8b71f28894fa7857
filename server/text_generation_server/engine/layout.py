"""How keys and values lie in the memory of a device.

A TPU pads the last dimension of an array to 128 lanes. Heads of 128 lie as they are, [slots, length, heads, head_dim].
Smaller ones would take twice their memory, and the compiler would turn the whole cache around for each write
(docs/performance.md, "Layout of the KV cache"); so there they lie side by side, [slots, length, lanes].
"""

from enum import Enum

LANES = 128


class CacheLayout(Enum):
    """HEADS: always [slots, length, heads, head_dim], right for a CPU. LANES: side by side unless heads fill lanes."""

    HEADS = "heads"
    LANES = "lanes"

    def shape(self, heads: int, head_dim: int) -> tuple[int, ...]:
        """The dimensions after slots and length."""
        if self is CacheLayout.HEADS or head_dim % LANES == 0:
            return heads, head_dim
        return (-(-heads * head_dim // LANES) * LANES,)
