"""FLOPs of experts, whose loops the compiler counts as if they ran once."""

import math
from dataclasses import dataclass

from text_generation_server.model.description import ModelDescription
from text_generation_server.runtime.experts import Way, block_size, way_for


@dataclass(frozen=True)
class Experts:
    """Of all layers.

    Attributes:
        numbers: in the matrices that one expert of each layer has, on each chip.
        bytes_of_one: of the matrices of one expert of one layer, on each chip.
        count: of a layer.
        chosen: of them for each token.
    """

    numbers: int
    bytes_of_one: int
    count: int
    chosen: int

    def way(self, tokens: int) -> Way:
        return way_for(tokens, self.chosen, self.count, self.bytes_of_one)

    def flops_counted(self, tokens: int) -> int:
        """What the compiler counts: of a loop, one turn."""
        if not self.count:
            return 0
        by_way = {
            Way.ALL_AT_ONCE: self.count * tokens,
            Way.THOSE_CHOSEN: tokens,
            Way.IN_BLOCKS: block_size(tokens * self.chosen, self.count),
        }
        return 2 * self.numbers * by_way[self.way(tokens)]

    def flops(self, tokens: int) -> int:
        """Of tokens that choose differently. Each expert that is read is multiplied with all of few tokens, and of a
        piece with its own."""
        if not self.count:
            return 0
        by_way = {
            Way.ALL_AT_ONCE: self.count * tokens,
            Way.THOSE_CHOSEN: min(self.count, tokens * self.chosen) * tokens,
            Way.IN_BLOCKS: tokens * self.chosen,
        }
        return 2 * self.numbers * by_way[self.way(tokens)]


def experts_of(description: ModelDescription, chosen: int, chips: int) -> Experts:
    matrices = {
        name: weight
        for name, weight in description.weights.items()
        if weight.stacked is not None and len(weight.shape) == 3
    }
    if not matrices:
        return Experts(0, 0, 0, 0)
    # Those of one layer follow each other: gate, up and down.
    count = next(iter(matrices.values())).shape[0]
    of_one_layer = list(matrices.values())[:3]
    return Experts(
        sum(math.prod(weight.shape[1:]) for weight in matrices.values()) // chips,
        sum(weight.nbytes for weight in of_one_layer) // count // chips,
        count,
        chosen or 1,
    )
