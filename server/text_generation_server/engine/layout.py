"""How keys and values lie in the memory of a device.

A TPU pads the last dimension of an array to 128 lanes. Heads of 128 lie as they are, [slots, length, heads, head_dim].
Smaller ones would take twice their memory, and the compiler would turn the whole cache around for each write
(docs/performance.md, "Layout of the KV cache"); so there they lie side by side, [slots, length, lanes].

Where the heads of a slot leave half a tile of 128 lanes unused, as three of 64 do, two slots that follow each other
share a row, [slots / 2, length, lanes], and leave none: the cache of SmolLM2-135M takes three quarters.

Keys and values in one byte for a number would lie in tiles of 32 positions, into which a TPU cannot write a single one:
it would copy all of them into other tiles and back in each step. So on one chip they are given tiles of 8, see
`order_in_tiles`.

A table of embeddings whose rows do not fill lanes would lie by columns, and be copied into rows in each step, of which
a few are taken. So it lies by rows, see `order_of_weight`; a head that shares it reads the lanes that are left over.
"""

from collections.abc import Sequence
from enum import Enum

LANES = 128

TILES = ((8, LANES), (4, 1))
"""Of arrays with one byte for a number: 8 rows, of which 4 share the words of a row."""


def order_in_tiles(name: str, shape: Sequence[int], item_bytes: float) -> tuple[int, ...] | None:
    """In which order the dimensions of an array lie in TILES on a TPU, slowest first; None: it is left to the compiler.

    `name`, `shape`: of the array.
    """
    if item_bytes != 1 or not name.startswith(("keys.", "values.")):
        return None
    if len(shape) == 3:
        return 0, 1, 2
    # Heads in fours fill tiles by themselves.
    return None if shape[2] % 4 == 0 else (0, 2, 1, 3)


TABLES = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
"""How the names of tables end from which a program takes the rows of tokens."""


def order_of_weight(name: str, shape: Sequence[int]) -> tuple[int, ...] | None:
    """In which order the dimensions of a weight lie on a TPU, slowest first; None: it is left to the compiler."""
    return (0, 1) if name.endswith(TABLES) and len(shape) == 2 and shape[1] % LANES else None


class CacheLayout(Enum):
    """HEADS: always [slots, length, heads, head_dim], right for a CPU. LANES: side by side unless heads fill lanes."""

    HEADS = "heads"
    LANES = "lanes"

    def shape(self, heads: int, head_dim: int) -> tuple[int, ...]:
        """The dimensions after slots and length."""
        if self is CacheLayout.HEADS or head_dim % LANES == 0:
            return heads, head_dim
        return (-(-heads * head_dim // LANES) * LANES,)

    def fills_in_pairs(self, heads: int, head_dim: int) -> bool:
        """Whether two slots fill lanes together, of which one would leave some unused."""
        return self is CacheLayout.LANES and heads * head_dim % LANES == LANES // 2
