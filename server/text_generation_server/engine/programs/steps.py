"""Programs that run the model over the last token of each slot: forward, and verify with drafts behind it."""

from typing import Any

import torch
from torch import Tensor

from text_generation_server.engine.cache import DecodeAccess, slot_cache, successors
from text_generation_server.engine.experts import without_idle
from text_generation_server.engine.program import INPUT, STATE, Program, Spec, Tensors
from text_generation_server.engine.state import BatchShape


def forward(model: Any, shape: BatchShape, seen_length: int) -> Program:
    """Feeds each slot's last token through the model.

    Args:
        seen_length: attention reads this many positions of the cache; every live position must be below it.

    It takes the cache and, unchanged, `tokens`, `positions` and for a model with adapters `adapters` [slots] int32; it
    returns the cache and `logits`, [slots, vocabulary].
    """

    def function(given: Tensors) -> dict[str, Tensor]:
        successor, logits = run_step(model, shape, seen_length, given, given["tokens"].unsqueeze(1))
        return {**successor, "logits": logits[:, -1]}

    return Program(f"forward {seen_length}", function, step_inputs(shape))


def verify(model: Any, shape: BatchShape, seen_length: int) -> Program:
    """Feeds each slot's last token and `shape.drafts` tokens after it, as if they had been chosen, through the model.

    Args:
        seen_length: as for `forward`; the position of every draft that may be accepted must be below it.

    It takes what `forward` takes and `drafts` [slots, shape.drafts] int32, padded at the end; it returns the cache, and
    `logits.0`, `logits.1`, ... [slots, vocabulary] each, those after the last token and after each draft. What drafts
    that are not accepted leave in the cache lies behind the last token: no query looks there before it is written anew.
    """

    def function(given: Tensors) -> dict[str, Tensor]:
        ids = torch.cat([given["tokens"].unsqueeze(1), given["drafts"]], dim=1)
        successor, logits = run_step(model, shape, seen_length, given, ids)
        return {**successor, **{f"logits.{place}": logits[:, place] for place in range(shape.drafts + 1)}}

    return Program(f"verify {seen_length}", function, {**step_inputs(shape), "drafts": drafts_of(shape)})


def step_inputs(shape: BatchShape) -> dict[str, Spec]:
    """What `run_step` reads."""
    rows = shape.rows()
    read = {**shape.cache(), "tokens": rows["tokens"], "positions": rows["positions"]}
    if shape.adapters:
        read["adapters"] = Spec((shape.slots,), "int32", STATE)
    return read


def run_step(
    model: Any, shape: BatchShape, seen_length: int, given: Tensors, ids: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The cache after tokens `ids` [slots, count] from each slot's position on, and the logits [slots, count,
    vocabulary] behind each."""
    positions = given["positions"]
    ahead = torch.arange(ids.shape[1], dtype=torch.int32, device=positions.device)
    layers = slot_cache(given, shape, DecodeAccess(positions, seen_length, shape.length))
    with without_idle(positions >= shape.length):
        logits = model(
            input_ids=ids,
            position_ids=positions.unsqueeze(1) + ahead,
            past_key_values=layers,
            use_cache=True,
            **({"adapters": given["adapters"]} if shape.adapters else {}),
        ).logits
    return successors(layers), logits


def drafts_of(shape: BatchShape) -> Spec:
    """See `verify`."""
    return Spec((shape.slots, shape.drafts), "int32", INPUT)
