"""The programs that the engine runs, as pure torch functions from state to state.

Rules that keep a program compilable once and for all:
- shapes are constants; what varies (slot, length, position, parameters) comes in as a tensor, never as a
  Python number, since a number is baked into the program;
- no tensor is changed in place, nothing is read back, nothing depends on the order of Python objects;
- one small float32 array goes back to the host: [rows, 2], token and logprob. Token ids are below 2^24,
  so float32 holds them exactly, and one transfer is cheaper than two.

`decode_greedy` does not maintain `counts`: it runs only while no live request needs processed scores, and a
request that does has its counts set by its own prefill.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from text_generation_server.engine.cache import DecodeStep, PrefillStep, slot_cache
from text_generation_server.engine.state import FLOAT_COLUMNS, INTEGER_COLUMNS, DecodeState
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.processing import ProcessingTensors, process

Program = Callable[[DecodeState, list[Tensor]], tuple[DecodeState, Tensor]]


def prefill_program(model: nn.Module) -> Program:
    """Fills one slot with a prompt and chooses its first token; other slots are carried over.

    Inputs: ids [1, bucket] int32, padded at the end; placement [2] int32, slot and length;
    floats [len(FLOAT_COLUMNS)] float32; integers [len(INTEGER_COLUMNS)] int32. Result: [1, 2].
    """

    def prefill(state: DecodeState, inputs: list[Tensor]) -> tuple[DecodeState, Tensor]:
        ids, placement, floats, integers = inputs
        slot, length = placement[0:1], placement[1:2]
        bucket = ids.shape[1]
        indices = torch.arange(bucket, dtype=torch.int32, device=ids.device)
        cache = slot_cache(state.keys, state.values, PrefillStep(slot))
        logits = model(
            input_ids=ids,
            position_ids=indices.unsqueeze(0),
            past_key_values=cache,
            use_cache=True,
            # The LM head runs on the last token of the prompt only, not on the whole bucket.
            logits_to_keep=(length - 1).to(torch.int64),
        ).logits[:, 0]

        occurs = (indices < length).to(torch.int32)
        empty = torch.zeros(state.counts.shape[1], dtype=torch.int32, device=ids.device)
        counts = empty.scatter_add(0, ids[0].to(torch.int64), occurs).unsqueeze(0)
        column = length.unsqueeze(1)
        chosen, logprob = choose_processed(logits, counts, column, floats.unsqueeze(0), integers.unsqueeze(0))
        counts = counts + one_hot(chosen, counts.shape[1])

        here = torch.arange(state.tokens.shape[0], dtype=torch.int32, device=ids.device) == slot
        row = here.unsqueeze(1)
        successor = DecodeState(
            keys=[layer.keys for layer in cache.layers],
            values=[layer.values for layer in cache.layers],
            tokens=torch.where(here, chosen[:, 0], state.tokens),
            positions=torch.where(here, length, state.positions),
            floats=torch.where(row, floats, state.floats),
            integers=torch.where(row, integers, state.integers),
            counts=torch.where(row, counts, state.counts),
        )
        return successor, pack(chosen, logprob)

    return prefill


def decode_program(model: nn.Module, seen_length: int, processed: bool) -> Program:
    """One step for all slots. No inputs beside the state. Result: [slots, 2].

    Args:
        seen_length: attention reads this many positions of the cache; every live position must be below it.
        processed: penalties, filters and sampling; otherwise the plain arg max.
    """

    def decode(state: DecodeState, inputs: list[Tensor]) -> tuple[DecodeState, Tensor]:
        length = state.keys[0].shape[1]
        cache = slot_cache(state.keys, state.values, DecodeStep(state.positions, seen_length))
        logits = model(
            input_ids=state.tokens.unsqueeze(1),
            position_ids=state.positions.unsqueeze(1),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        counts = state.counts
        if processed:
            column = (state.positions + 1).unsqueeze(1)
            chosen, logprob = choose_processed(logits, counts, column, state.floats, state.integers)
            counts = counts + one_hot(chosen, counts.shape[1])
        else:
            chosen, logprob = choose_greedy(logits)
        successor = DecodeState(
            keys=[layer.keys for layer in cache.layers],
            values=[layer.values for layer in cache.layers],
            tokens=chosen[:, 0],
            # A slot that is not live goes on computing into its own last place, which no request reads.
            positions=torch.clamp(state.positions + 1, max=length - 1),
            floats=state.floats,
            integers=state.integers,
            counts=counts,
        )
        return successor, pack(chosen, logprob)

    return decode


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
