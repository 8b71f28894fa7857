"""What `--dry-run` prints: the numbers and where they come from, the memory they take, and what would be started."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.model.memory import LARGEST_BATCH, MemoryNeed, gibibytes
from text_generation_server.settings import CPU_BATCH_SIZE
from tpu_tgi.parameters.derivation import Parameters
from tpu_tgi.parameters.given import Given
from tpu_tgi.parameters.model import Checkpoint


@dataclass(frozen=True)
class Chip:
    """One device as the KV cache meets it.

    Attributes:
        memory: bytes; None where it is the machine's.
        dtype: the default of weights and cache there.
        layout: see `Checkpoint.need`.
    """

    name: str
    memory: int | None
    dtype: str
    layout: CacheLayout


# HBM of one chip: https://cloud.google.com/tpu/docs/v5e and .../v6e.
CHIPS = (
    Chip("TPU v5e", 16 * 2**30, "bfloat16", CacheLayout.LANES),
    Chip("TPU v6e", 32 * 2**30, "bfloat16", CacheLayout.LANES),
    Chip("CPU", None, "float32", CacheLayout.HEADS),
)


def numbers_section(parameters: Parameters, given: Given) -> list[str]:
    """One line for each number, with the words in which it was given."""

    def line(name: str, value: int | None, sources: Iterable[object]) -> str:
        words = ", ".join(f"`{source}`" for source in sources if source is not None)
        return f"  {name:<26} {'the shard decides' if value is None else value:<18} {words or 'derived'}"

    return [
        "Numbers:",
        line("batch size", parameters.batch_size, given.batch_size),
        line("sequence length", parameters.sequence_length, given.sequence_length),
        line("longest prompt", parameters.max_input_tokens, given.max_input_tokens),
        line("tokens of one prefill", parameters.max_batch_prefill_tokens, [given.max_batch_prefill_tokens]),
        line("tokens of all requests", parameters.max_batch_total_tokens, [given.max_batch_total_tokens]),
        line("chips", parameters.chips, given.chips),
        line("concurrent requests", parameters.max_concurrent_requests, [given.max_concurrent_requests]),
        *(f"  Note: {remark}" for remark in parameters.remarks),
    ]


def memory_section(
    parameters: Parameters,
    checkpoint: Checkpoint | None,
    dtype: str | None,
    quantize: str | None,
    cache_dtype: CacheDtype | None,
) -> list[str]:
    """What the weights and the KV cache take on some devices, and the largest batch and length that fit there."""
    lines = ["", "Memory:"]
    length = parameters.sequence_length
    if checkpoint is None or length is None:
        return [*lines, "  not known before the model is here"]
    for chip in CHIPS:
        used = dtype or chip.dtype
        # Several chips would have to share pairs of slots.
        pairs = parameters.chips in (None, 1) and (parameters.batch_size or 2) % 2 == 0
        need = checkpoint.need(used, chip.layout, quantize, cache_dtype, pairs=pairs)
        if need is None:
            return [*lines, f"  not known: {checkpoint.directory} has no weights yet, or no full config.json"]
        if parameters.chips is not None:
            need = on_each(need, parameters.chips)
        slots = parameters.batch_size or chosen_batch(need, chip, length)
        lines.append(f"  {chip.name:<8} {used:<9} {needed(need, slots, length)}")
        if chip.memory is not None:
            verdict = fitting(need, chip.memory, slots, length, checkpoint.positions)
            lines.append(f"{'':<21}{verdict}")
    return lines


def on_each(need: MemoryNeed, chips: int) -> MemoryNeed:
    """What each of so many chips needs, about: norms and biases lie on all of them."""
    parts = {name: -(-getattr(need, name) // chips) for name in ("weights", "position", "slot")}
    return replace(need, chips=chips, **parts)


def chosen_batch(need: MemoryNeed, chip: Chip, length: int) -> int:
    """As the shard chooses where nobody did."""
    if chip.memory is None:
        return CPU_BATCH_SIZE
    return max(1, min(LARGEST_BATCH, need.largest_batch(chip.memory, length)))


def needed(need: MemoryNeed, batch_size: int, length: int) -> str:
    return (
        f"weights {gibibytes(need.weights)}, KV cache {gibibytes(need.cache(batch_size, length))} "
        f"({batch_size} slots x {length} tokens x {need.position / 1024:.1f} KiB)"
    )


def fitting(need: MemoryNeed, memory: int, batch_size: int, length: int, positions: int | None) -> str:
    verdict = "fits" if need.fits(memory, batch_size, length) else "DOES NOT FIT"
    longest = need.largest_length(memory, batch_size)
    each = f" on each of {need.chips} chips" if need.chips > 1 else ""
    return (
        f"{verdict} in {memory / 2**30:.0f} GiB{each}: "
        f"HF_BATCH_SIZE up to {need.largest_batch(memory, length)} with this length, "
        f"HF_SEQUENCE_LENGTH up to {min(longest, positions or longest)} with this batch size"
    )


def command_section(what: str, variables: Mapping[str, str], command: list[str]) -> list[str]:
    """A command that could be pasted into a shell."""
    assignments = [f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    return ["", f"{what}:", "  " + " \\\n    ".join([*assignments, shlex.join(command)])]
