"""Programs that put a prompt into its slot: seat, extend or score, admit; and park, for a slot that is left."""

from typing import Any

import torch
from torch import Tensor

from text_generation_server.engine import kernels
from text_generation_server.engine.attention import over_pieces
from text_generation_server.engine.buckets import PieceShape
from text_generation_server.engine.cache import PieceAccess, kept_places, slot_cache, successors
from text_generation_server.engine.program import INPUT, Program, Spec, Tensors
from text_generation_server.engine.state import (
    FLOAT_COLUMNS,
    INTEGER_COLUMNS,
    SCALES,
    BatchShape,
    positions_dimension,
)
from text_generation_server.sampling.parameters import Processing

SCALAR = Spec((1,), "int32", INPUT)


def seat(shape: BatchShape) -> Program:
    """Makes a slot ready for a prompt of which another slot, or itself, holds the beginning.

    It takes `slot`, `source` and `kept` [1] int32, and returns the cache and `positions`. The slot holds the first
    `kept` positions of `source` and zeros behind them: what a former request left there would be masked, but a mask
    multiplies by zero, and zero times infinity would spoil the newcomer. Of a ring it holds as many of them as what
    follows will see. The slot is parked behind its own end, where the steps of the other slots write nothing.
    """
    cache, rows = shape.cache(), shape.rows()
    inputs = {"slot": SCALAR, "source": SCALAR, "kept": SCALAR}

    def function(given: Tensors) -> dict[str, Tensor]:
        slot, source, kept = given["slot"], given["source"], given["kept"]
        successor = {}
        for name in cache:
            held = given[name]
            dimension = positions_dimension(name)
            is_kept = kept_places(held.shape[dimension], kept, shape)
            is_paired = not name.startswith(SCALES) and shape.is_paired(int(name.partition(".")[2]))
            successor[name] = kernels.copy_slot(held, slot, source, is_kept, dimension, is_paired)
        return {**successor, "positions": parked(given["positions"], slot, shape)}

    return Program("seat", function, {**cache, "positions": rows["positions"], **inputs})


def park(shape: BatchShape) -> Program:
    """Parks a slot that was released, so that steps of the other slots write no more over what its rings hold, and read
    no experts for it.

    It takes `slot` [1] int32, and returns `positions`.
    """

    def function(given: Tensors) -> dict[str, Tensor]:
        return {"positions": parked(given["positions"], given["slot"], shape)}

    return Program("park", function, {"positions": shape.rows()["positions"], "slot": SCALAR})


def parked(positions: Tensor, slot: Tensor, shape: BatchShape) -> Tensor:
    """The positions, that of the slot behind its end."""
    here = torch.arange(shape.slots, dtype=torch.int32, device=slot.device) == slot
    return torch.where(here, torch.full_like(positions, shape.length), positions)


def extend(model: Any, shape: BatchShape, piece: PieceShape) -> Program:
    """Writes pieces of prompts into their slots, each behind what its slot holds; the weights are read once for all.

    It takes `ids` [rows, width] int32, padded at the end, `slots` and `starts` [rows] int32, see `PieceShape`, and
    `row_adapters` [rows] int32 for a model with adapters, and `prompts` [rows] int32, the lengths of the whole prompts,
    for one whose rotary frequencies depend on them; it returns the cache and `ends` [rows], the positions behind
    the pieces, which tell that it has run.
    """
    cache = shape.cache()

    def function(given: Tensors) -> dict[str, Tensor]:
        successor, _ = run_piece(model, shape, piece, given)
        return {**successor, "ends": given["starts"] + piece.width}

    return Program(f"extend {piece}", function, {**cache, **piece_inputs(shape, piece)})


def score(model: Any, shape: BatchShape, piece: PieceShape) -> Program:
    """An `extend` that also finds the logprob of the token after each of the piece, given those up to it.

    It takes `next_ids` [rows, width] int32 besides, and returns the cache and `logprobs` [rows, width]; those of
    padding mean nothing.
    """
    cache = shape.cache()
    inputs = {**piece_inputs(shape, piece), "next_ids": Spec((piece.rows, piece.width), "int32", INPUT)}

    def function(given: Tensors) -> dict[str, Tensor]:
        successor, hidden = run_piece(model, shape, piece, given)
        adapters = {"adapters": given["row_adapters"]} if shape.adapters else {}
        scores = model.logits_of(hidden, **adapters).to(torch.float32)
        chosen = torch.gather(scores, 2, given["next_ids"].to(torch.int64).unsqueeze(2))[..., 0]
        return {**successor, "logprobs": chosen - torch.logsumexp(scores, dim=-1)}

    return Program(f"score {piece}", function, {**cache, **inputs})


def piece_inputs(shape: BatchShape, piece: PieceShape) -> dict[str, Spec]:
    """See `extend`."""
    by_row = Spec((piece.rows,), "int32", INPUT)
    inputs = {"ids": Spec((piece.rows, piece.width), "int32", INPUT), "slots": by_row, "starts": by_row}
    if shape.adapters:
        inputs["row_adapters"] = by_row
    if shape.by_length:
        inputs["prompts"] = by_row
    return inputs


def run_piece(
    model: Any, shape: BatchShape, piece: PieceShape, given: Tensors
) -> tuple[dict[str, Tensor], Tensor]:
    """The cache after a piece, and the hidden states [rows, width, hidden] that the head would take."""
    starts = given["starts"]
    layers = slot_cache(given, shape, PieceAccess(given["slots"], starts, shape.length))
    ahead = torch.arange(piece.width, dtype=torch.int32, device=starts.device)
    with over_pieces(given["slots"], starts + piece.width, shape.slots):
        hidden = model.base_model(
            input_ids=given["ids"],
            position_ids=starts.unsqueeze(1) + ahead,
            past_key_values=layers,
            use_cache=True,
            **({"adapters": given["row_adapters"]} if shape.adapters else {}),
            **({"prompts": given["prompts"]} if shape.by_length else {}),
        ).last_hidden_state
    return successors(layers), hidden


def admit(shape: BatchShape, processing: Processing) -> Program:
    """Sets the row of a slot whose prompt is in the cache but for its last token; the slot is live from now on.

    It takes `slot`, `token` and `position` [1] int32 (the prompt's last token, and where it goes), `new_floats`
    [1, len(FLOAT_COLUMNS)] float32, `new_integers` [1, len(INTEGER_COLUMNS)] int32, and with any processing
    `new_counts` [1, vocabulary] int32, how often each token occurs in the prompt. It returns the rows.
    """
    rows = shape.rows()
    if processing is Processing.NONE:
        # Without penalties nobody looks at the counts of this slot.
        del rows["counts"]
    inputs = {
        "slot": SCALAR,
        "token": SCALAR,
        "position": SCALAR,
        "new_floats": Spec((1, len(FLOAT_COLUMNS)), "float32", INPUT),
        "new_integers": Spec((1, len(INTEGER_COLUMNS)), "int32", INPUT),
    }
    if processing is not Processing.NONE:
        inputs["new_counts"] = Spec((1, shape.vocabulary), "int32", INPUT)
    news = {
        "tokens": "token",
        "positions": "position",
        "floats": "new_floats",
        "integers": "new_integers",
        "counts": "new_counts",
    }

    def function(given: Tensors) -> dict[str, Tensor]:
        here = torch.arange(shape.slots, dtype=torch.int32, device=given["slot"].device) == given["slot"]
        return {
            name: torch.where(here if given[name].dim() == 1 else here.unsqueeze(1), given[new], given[name])
            for name, new in news.items()
            if name in rows
        }

    return Program(f"admit {processing.name.lower()}", function, {**rows, **inputs})
