"""The programs that the engine runs, as pure torch functions from state to state.

Rules that keep a program compilable once and for all:
- shapes are constants; what varies (slot, length, position, parameters) comes in as a tensor, never as a
  Python number, since a number is baked into the program;
- no tensor is changed in place, nothing is read back, nothing depends on the order of Python objects;
- one small float32 array goes back to the host: [rows, 2], token and logprob. Token ids are below 2^24,
  so float32 holds them exactly, and one transfer is cheaper than two.

A new request takes two programs: `prefill`, one for each bucket, fills the cache; `admit`, one for all, chooses the
first token and sets the slot's row. Choosing compiles slowly, so it is not repeated in every bucket.

The greedy decode does not maintain `counts`: it runs only while no live request needs processed scores, and a
request that does has its counts set when it is admitted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from text_generation_server.engine.cache import DecodeStep, PrefillStep, slot_cache, successors
from text_generation_server.engine.state import FLOAT_COLUMNS, INTEGER_COLUMNS, DecodeState, SlotRows
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.processing import ProcessingTensors, process


@dataclass(frozen=True)
class Program:
    """A function on flat lists of tensors, and what it takes to compile it.

    Attributes:
        function: takes tensors like `arguments`; its first `donated` outputs succeed its first `donated` arguments,
            and one more output is the result.
        arguments: tensors on the device with the shapes of all runs.
        donated: how many arguments give their buffers away.
    """

    function: Callable[[list[Tensor]], list[Tensor]]
    arguments: list[Tensor]
    donated: int


def prefill(model: nn.Module, cache: list[Tensor], ids: Tensor, placement: Tensor) -> Program:
    """Writes a prompt into one slot of the cache; the other slots are carried over.

    Args:
        ids: [1, bucket] int32, padded at the end.
        placement: [2] int32, slot and length.

    The function returns the cache and the logits after the prompt, [1, vocabulary].
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        *old, ids, placement = arguments
        slot, length = placement[0:1], placement[1:2]
        positions = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device).unsqueeze(0)
        layers = slot_cache(old, PrefillStep(slot))
        logits = model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=layers,
            use_cache=True,
            # The LM head runs on the last token of the prompt only, not on the whole bucket.
            logits_to_keep=(length - 1).to(torch.int64),
        ).logits[:, 0]
        return [*successors(layers), logits]

    return Program(function, [*cache, ids, placement], len(cache))


def admit(rows: SlotRows, inputs: list[Tensor]) -> Program:
    """Chooses the first token of a prompt and sets the slot's row.

    Args:
        inputs: logits [1, vocabulary]; ids [1, length] int32, padded at the end; placement [2] int32, slot and length;
            floats [len(FLOAT_COLUMNS)] float32; integers [len(INTEGER_COLUMNS)] int32.

    The function returns the rows and the choice, [1, 2].
    """
    row_tensors = rows.flatten()

    def function(arguments: list[Tensor]) -> list[Tensor]:
        rows = SlotRows(*arguments[: len(row_tensors)])
        logits, ids, placement, floats, integers = arguments[len(row_tensors) :]
        slot, length = placement[0:1], placement[1:2]
        occurs = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device) < length
        empty = torch.zeros(rows.counts.shape[1], dtype=torch.int32, device=ids.device)
        counts = empty.scatter_add(0, ids[0].to(torch.int64), occurs.to(torch.int32)).unsqueeze(0)
        chosen, logprob = choose_processed(
            logits, counts, length.unsqueeze(1), floats.unsqueeze(0), integers.unsqueeze(0)
        )
        counts = counts + one_hot(chosen, counts.shape[1])

        here = torch.arange(rows.tokens.shape[0], dtype=torch.int32, device=ids.device) == slot
        row = here.unsqueeze(1)
        successor = SlotRows(
            tokens=torch.where(here, chosen[:, 0], rows.tokens),
            positions=torch.where(here, length, rows.positions),
            floats=torch.where(row, floats, rows.floats),
            integers=torch.where(row, integers, rows.integers),
            counts=torch.where(row, counts, rows.counts),
        )
        return [*successor.flatten(), pack(chosen, logprob)]

    return Program(function, [*row_tensors, *inputs], len(row_tensors))


def decode(model: nn.Module, state: DecodeState, seen_length: int, processed: bool) -> Program:
    """One step for all slots.

    Args:
        seen_length: attention reads this many positions of the cache; every live position must be below it.
        processed: penalties, filters and sampling; otherwise the plain arg max.

    The function returns the state and the choices, [slots, 2].
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        state = DecodeState.unflatten(arguments)
        rows = state.rows
        layers = slot_cache(state.cache, DecodeStep(rows.positions, seen_length))
        logits = model(
            input_ids=rows.tokens.unsqueeze(1),
            position_ids=rows.positions.unsqueeze(1),
            past_key_values=layers,
            use_cache=True,
        ).logits[:, -1]
        counts = rows.counts
        if processed:
            length = (rows.positions + 1).unsqueeze(1)
            chosen, logprob = choose_processed(logits, counts, length, rows.floats, rows.integers)
            counts = counts + one_hot(chosen, counts.shape[1])
        else:
            chosen, logprob = choose_greedy(logits)
        successor = SlotRows(
            tokens=chosen[:, 0],
            # A slot that is not live goes on computing into its own last place, which no request reads.
            positions=torch.clamp(rows.positions + 1, max=state.cache[0].shape[1] - 1),
            floats=rows.floats,
            integers=rows.integers,
            counts=counts,
        )
        return [*successors(layers), *successor.flatten(), pack(chosen, logprob)]

    tensors = state.flatten()
    return Program(function, tensors, len(tensors))


def choose_processed(
    logits: Tensor, counts: Tensor, length: Tensor, floats: Tensor, integers: Tensor
) -> tuple[Tensor, Tensor]:
    """Processes the logits by each row's parameters and chooses.

    Args:
        length: [rows, 1] int32, tokens so far; also the position of the token to be chosen.
    """
    real = {name: floats[:, i : i + 1] for i, name in enumerate(FLOAT_COLUMNS)}
    whole = {name: integers[:, i : i + 1] for i, name in enumerate(INTEGER_COLUMNS)}
    scores = process(logits, counts, length, ProcessingTensors(top_k=whole["top_k"], **real))
    return choose(scores, whole["samples"] != 0, (whole["seed_low"], whole["seed_high"]), length)


def one_hot(chosen: Tensor, count: int) -> Tensor:
    """[rows, count] int32 with a 1 at each row's token; added where a scatter would be slow on a TPU."""
    lanes = torch.arange(count, dtype=torch.int32, device=chosen.device).unsqueeze(0)
    return (lanes == chosen).to(torch.int32)


def pack(chosen: Tensor, logprob: Tensor) -> Tensor:
    """[rows, 2] float32: token id and logprob."""
    return torch.cat([chosen.to(torch.float32), logprob], dim=1)
