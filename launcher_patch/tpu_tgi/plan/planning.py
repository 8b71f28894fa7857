"""Which numbers of chips and batches fit, and the bound of their speed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from text_generation_server.engine import catalogue
from text_generation_server.engine.buckets import PieceShape, piece_shapes
from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.sharding import Sharding
from text_generation_server.engine.state import BatchShape
from text_generation_server.loading.chips import ModelArrays
from text_generation_server.model.description import ModelDescription, ModelSource
from text_generation_server.model.memory import LARGEST_BATCH, MemoryNeed, gibibytes
from text_generation_server.settings import ACCELERATOR_CHUNK
from tpu_tgi.plan.experts import experts_of
from tpu_tgi.plan.model import Layers, layers_of, with_layers
from tpu_tgi.plan.programs import (
    CompilationError,
    ProgramCost,
    cost,
    deepened,
    deepened_alike,
    mesh_for,
    record,
)
from tpu_tgi.plan.tpus import Tpu

THREADS = 2
"""Programs that are compiled at a time: the compiler uses several cores for one of them, in part."""

SMALLEST_BATCH = 4


@dataclass(frozen=True)
class Choice:
    """One way to start the model. Bytes, FLOPs and seconds; all but speed on each chip.

    Attributes:
        weights, cache, temporaries, code: memory; `cache` with what else a slot has.
        step_bytes: the least that a decode step reads: each weight and the whole cache once; of experts, as many as
            slots that choose differently can choose.
        step_flops, piece_flops: as the compiler counts them, and of experts as many as tokens that choose differently
            can choose; of a piece of a prompt without attention, whose loop ends where the prompt does.
        step_seconds: no step can be shorter, by bandwidth and FLOPs of the chip; and so `piece_seconds`.
        tokens_per_second: of all slots, at most.
        compile_seconds: what was seen here for the programs that this was computed from.
    """

    chips: int
    batch: int
    length: int
    weights: int
    cache: int
    temporaries: int
    code: int
    step_bytes: int
    step_flops: float
    step_seconds: float
    tokens_per_second: float
    piece_tokens: int
    piece_flops: float
    piece_seconds: float
    compile_seconds: float


@dataclass(frozen=True)
class Plan:
    """Attributes:
    choices: that fit, those with the fewest chips first.
    refused: in words, what does not fit and why.
    layers: of the two models that were compiled, and of the whole.
    """

    choices: list[Choice]
    refused: list[str]
    layers: tuple[int, int, int]


def make_plan(
    source: ModelSource,
    description: ModelDescription,
    tpu: Tpu,
    cache_dtype: CacheDtype | None,
    batch: int | None,
    length: int,
    say: Callable[[str], None],
) -> Plan:
    """Raises UnsupportedModelError for a model that cannot be recorded."""
    arrays, layers = ModelArrays(description, CacheLayout.LANES, {}), layers_of(source.directory)
    compilations = Compilations(source, tpu, layers)
    choices: list[Choice] = []
    refused: list[str] = []
    for chips in chip_counts(tpu):
        undivided = arrays.undivided(chips)
        if undivided is not None:
            refused.append(f"{named(chips)}: they do not divide {undivided}")
            continue
        shape = shape_of(description, source.dtype, cache_dtype, batch, length, chips)
        sharding = arrays.sharding(chips)
        need = arrays.memory_need(sharding, shape)
        batches = batches_that_fit(need, tpu.memory, batch, length)
        if not batches:
            refused.append(too_large(need, tpu, chips, batch, length))
            continue
        shape = replace(shape, slots=batches[-1])
        say(f"{named(chips)}: compiling for {batches[-1]} slots of {length} tokens")
        try:
            step, piece = compilations.costs(shape, sharding)
        except CompilationError as error:
            refused.append(f"{named(chips)}: {error}")
            continue
        for each in batches:
            found = choice(each, shape, need, description, layers.chosen, tpu, step, piece)
            if found.weights + found.cache + found.temporaries + found.code > tpu.memory:
                refused.append(
                    f"{named(chips)}, {each} slots and more of {length} tokens: {gibibytes(found.temporaries)} of "
                    f"temporaries and {gibibytes(found.code)} of code beside {gibibytes(found.weights)} of weights "
                    f"and {gibibytes(found.cache)} of cache"
                )
                break
            choices.append(found)
    return Plan(choices, refused, (*layers.depths, layers.count))


def named(chips: int) -> str:
    return "1 chip" if chips == 1 else f"{chips} chips"


def chip_counts(tpu: Tpu) -> Iterator[int]:
    """1, 2, 4, ... up to those of the host."""
    chips = 1
    while chips <= tpu.chips:
        yield chips
        chips *= 2


def batches_that_fit(need: MemoryNeed, memory: int, asked: int | None, length: int) -> list[int]:
    """As asked, or powers of two, in multiples of what the chips must share; what programs need is guessed."""
    if asked is not None:
        fits = need.fits(memory, asked, length) and asked % need.multiple == 0
        return [asked] if fits else []
    largest = min(LARGEST_BATCH, need.largest_batch(memory, length)) // need.multiple * need.multiple
    batches = [need.multiple * 2**power for power in range(8) if need.multiple * 2**power >= SMALLEST_BATCH]
    return sorted({each for each in batches if each < largest} | ({largest} if largest else set()))


def fits_by_arithmetic(
    description: ModelDescription,
    dtype: str,
    tpu: Tpu,
    cache_dtype: CacheDtype | None,
    batch: int | None,
    length: int,
) -> bool:
    """Whether some number of the chips has room, with a guess of what programs need."""
    arrays = ModelArrays(description, CacheLayout.LANES, {})

    def need(chips: int) -> MemoryNeed:
        shape = shape_of(description, dtype, cache_dtype, batch, length, chips)
        return arrays.memory_need(arrays.sharding(chips), shape)

    return any(
        batches_that_fit(need(chips), tpu.memory, batch, length)
        for chips in chip_counts(tpu)
        if arrays.undivided(chips) is None
    )


def shape_of(
    description: ModelDescription,
    dtype: str,
    cache_dtype: CacheDtype | None,
    batch: int | None,
    length: int,
    chips: int,
) -> BatchShape:
    """The static batch; of two slots if their number is not asked for."""
    return description.batch_shape(
        batch or 2,
        length,
        CacheLayout.LANES,
        dtype,
        ACCELERATOR_CHUNK,
        cache_dtype=cache_dtype,
        chips=chips,
    )


def too_large(need: MemoryNeed, tpu: Tpu, chips: int, batch: int | None, length: int) -> str:
    """Why nothing fits."""
    what = f"{named(chips)}: {gibibytes(need.weights)} of weights on each of {gibibytes(tpu.memory)}"
    if batch is not None and batch % need.multiple:
        return f"{named(chips)} share the slots: --batch must be a multiple of {need.multiple}"
    if batch is not None and need.largest_batch(tpu.memory, length):
        return (
            f"{what}, and {gibibytes(need.cache(batch, length))} of cache: --batch "
            f"{need.largest_batch(tpu.memory, length)} would fit"
        )
    return f"{what}, and {gibibytes(need.cache(1, length))} of cache for one slot of {length} tokens"


class Compilations:
    """A decode step, and the largest piece of a prompt, of a model with all layers, on several numbers of chips."""

    def __init__(self, source: ModelSource, tpu: Tpu, layers: Layers) -> None:
        self._layers = layers
        self._source = source
        self._tpu = tpu
        self._grown: list[tuple[ProgramCost, ProgramCost]] = []

    def costs(self, shape: BatchShape, sharding: Sharding) -> tuple[ProgramCost, ProgramCost]:
        """Raises CompilationError, and UnsupportedModelError for a model that cannot be recorded."""
        names, depths = [f"forward {shape.length}", f"extend {largest_piece(shape)}"], self._layers.depths
        mesh = mesh_for(self._tpu, sharding.chips)
        programs = []
        for depth in sorted(set(depths[:1] if self._grown else depths)):
            with with_layers(self._source, depth) as shallow:
                programs += record(shallow, shape, names)
        with ThreadPoolExecutor(THREADS) as threads:
            costs = list(threads.map(lambda program: cost(program, mesh, sharding), programs))
        if self._grown:
            whole = [deepened_alike(first, *grown) for first, grown in zip(costs, self._grown, strict=True)]
        else:
            whole = [
                deepened(first, second, depths, self._layers.count)
                for first, second in zip(costs[:2], costs[-2:], strict=True)
            ]
            self._grown = list(zip(costs[:2], whole, strict=True))
        return whole[0], whole[1]


def choice(
    batch: int,
    shape: BatchShape,
    need: MemoryNeed,
    description: ModelDescription,
    chosen: int,
    tpu: Tpu,
    step: ProgramCost,
    piece: ProgramCost,
) -> Choice:
    """For a batch of at most the one that was compiled; `chosen`: experts of each token."""
    names = catalogue.names(shape, scores_prompts=False)
    steps, pieces = (sum(name.startswith(kind) for name in names) for kind in ("forward", "extend"))
    experts, tokens = experts_of(description, chosen, need.chips), largest_piece(shape).tokens
    cache = need.cache(batch, shape.length)
    flops = (step.flops - experts.flops_counted(shape.slots)) * batch / shape.slots + experts.flops(batch)
    piece_flops = piece.flops - experts.flops_counted(tokens) + experts.flops(tokens)
    read = weights_read(need, description, batch, chosen) + cache
    piece_read = weights_read(need, description, tokens, chosen)
    step_seconds = max(read / tpu.bandwidth, flops / tpu.flops)
    return Choice(
        chips=need.chips,
        batch=batch,
        length=shape.length,
        weights=need.weights,
        cache=cache + batch * need.slot,
        temporaries=max(step.temporaries, piece.temporaries),
        code=steps * step.code + pieces * piece.code,
        step_bytes=read,
        step_flops=flops,
        step_seconds=step_seconds,
        tokens_per_second=batch / step_seconds,
        piece_tokens=tokens,
        piece_flops=piece_flops,
        piece_seconds=max(piece_read / tpu.bandwidth, piece_flops / tpu.flops),
        compile_seconds=step.seconds + piece.seconds,
    )


def largest_piece(shape: BatchShape) -> PieceShape:
    """Of one prompt."""
    return max(piece for piece in piece_shapes(shape.slots, shape.length, shape.chunk) if piece.rows == 1)


def weights_read(need: MemoryNeed, description: ModelDescription, tokens: int, chosen: int) -> int:
    """On each chip, for so many tokens; of an embedding that is not the head too, only their rows, and of experts no
    more than they can choose."""
    unread = 0
    for name, weight in description.weights.items():
        if weight.stacked is not None:
            experts = weight.shape[0]
            unread += weight.nbytes * max(0, experts - tokens * max(1, chosen)) // experts
        elif name.endswith(("embed_tokens.weight", "embed_in.weight")) and any(
            other.endswith(("lm_head.weight", "embed_out.weight")) for other in description.weights
        ):
            unread += max(0, weight.nbytes - tokens * weight.nbytes // weight.shape[0])
    return need.weights - unread // need.chips
