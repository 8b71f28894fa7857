"""The router's side of the shard's cache: which blocks are free, and who owns the others."""

from collections.abc import Sequence


class BlockAllocator:
    """Hands out cache blocks as the stock router's simple allocator does (protocol section 3.6).

    Block 0 stays free for the liveness probe. The free list is a stack with the highest id on top, so a
    freed block is the next one given. With one block for each slot of the shard (block_size equals
    max_total_tokens), a request gets exactly one block: its slot, plus 1.
    """

    def __init__(self, total_tokens: int, block_size: int) -> None:
        self.block_size = block_size
        self._free = list(range(1, total_tokens // block_size))

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def allocate(self, tokens: int) -> tuple[tuple[int, ...], Sequence[int]] | None:
        """Blocks for `tokens` cache positions and those positions, or None if too few blocks are free."""
        count = -(-tokens // self.block_size)
        if count > len(self._free):
            return None
        blocks = tuple(self._free.pop() for _ in range(count))
        if count == 1:
            start = blocks[0] * self.block_size
            return blocks, range(start, start + tokens)
        positions = [
            block * self.block_size + offset for block in blocks for offset in range(self.block_size)
        ]
        return blocks, positions[:tokens]

    def free(self, blocks: tuple[int, ...]) -> None:
        self._free.extend(blocks)
