"""Over how many chips a model is split, and how it then lies on them. Arithmetic on shapes; nothing is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from loguru import logger

from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.rings import Ring
from text_generation_server.engine.sharding import WHOLE, CacheSplit, Sharding
from text_generation_server.engine.state import BatchShape
from text_generation_server.errors import InvalidSettingError
from text_generation_server.model.adapters.stacking import LayerStack
from text_generation_server.model.description import ModelDescription
from text_generation_server.model.memory import MemoryNeed
from text_generation_server.model.sharding import Parallel, adapter_dimensions, cache_split

OPTION = "--num-shard (HF_NUM_CHIPS)"


@dataclass(frozen=True)
class ModelArrays:
    """What of a model lies on chips.

    Attributes:
        layout: of the cache.
        stacks: of adapters, by layer.
    """

    description: ModelDescription
    layout: CacheLayout
    stacks: Mapping[str, LayerStack]

    def sharding(self, chips: int) -> Sharding:
        """How the model lies on so many chips."""
        weights = {name: weight.split for name, weight in self.description.weights.items()}
        for layer, stack in self.stacks.items():
            parallel = self.description.modules[layer].parallel
            for name in stack.named(layer):
                part = name.rpartition(".")[2]
                weights[name] = adapter_dimensions(Parallel(parallel) if parallel else None, part)
        return Sharding(chips, cache_split(self.description.layers, self.layout, chips), weights)

    def undivided(self, chips: int) -> str | None:
        """A matrix that so many chips do not divide, in words; None if there is none."""
        sharding = self.sharding(chips)
        for name, weight in self.description.weights.items():
            is_split = sharding.weight(name, weight.shape) != WHOLE
            if weight.split and len(weight.shape) > 1 and not is_split and chips > 1:
                return f"{name}, {list(weight.shape)}"
        return None

    def chosen(self, asked: int | None, available: int) -> int:
        """Over how many of the chips of this host the model is split: as asked, else as many as divide it.

        Raises InvalidSettingError if what was asked for does not divide the model.
        """
        fitting = [chips for chips in range(1, available + 1) if self.undivided(chips) is None]
        if asked is None:
            if fitting[-1] < available:
                logger.warning(
                    "Using {} of {} chips: more do not divide {}",
                    fitting[-1],
                    available,
                    self.undivided(available),
                )
            return fitting[-1]
        if asked not in fitting:
            raise InvalidSettingError(
                f"{OPTION} is {asked}, which does not divide {self.undivided(asked)}. "
                f"{', '.join(map(str, fitting))} would work"
            )
        return asked

    def memory_need(self, sharding: Sharding, shape: BatchShape) -> MemoryNeed:
        """What each chip needs, from headers alone; `shape`: for what it says of one position and the vocabulary."""
        chips = sharding.chips
        counts = sharding.parts(sharding.array("counts", (shape.slots, shape.vocabulary)))
        return MemoryNeed(
            weights=self.weight_bytes(sharding),
            position=-(-shape.position_bytes() // chips),
            slot=4 * shape.vocabulary // counts,
            chips=chips,
            multiple=math.lcm(slots_multiple(sharding), 2 if shape.pairs else 1),
            sliding=-(-shape.position_bytes(sliding=True) // chips),
            ring=Ring(shape.window, shape.chunk).size,
        )

    def weight_bytes(self, sharding: Sharding) -> int:
        """Of all parameters on each chip, adapters too."""
        weights = sum(
            weight.nbytes // sharding.parts(sharding.weight(name, weight.shape))
            for name, weight in self.description.weights.items()
        )
        for layer, stack in self.stacks.items():
            weights += sum(
                array.nbytes // sharding.parts(sharding.weight(name, array.shape))
                for name, array in stack.named(layer).items()
            )
        return weights


def slots_multiple(sharding: Sharding) -> int:
    """The number of slots must be a multiple of it."""
    return sharding.chips if sharding.cache is CacheSplit.SLOTS else 1


def check_slots(sharding: Sharding, slots: int) -> None:
    """Raises InvalidSettingError for slots that the chips cannot share."""
    multiple = slots_multiple(sharding)
    if slots % multiple:
        works = [
            str(each) for each in (slots // multiple * multiple, -(-slots // multiple) * multiple) if each
        ]
        raise InvalidSettingError(
            f"HF_BATCH_SIZE (--max-batch-size) is {slots}, and {multiple} chips share the slots, since they do not "
            f"divide the key heads of this model: {' or '.join(works)} would work, or another {OPTION}"
        )
