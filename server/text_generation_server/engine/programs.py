"""The programs that the engine runs, as pure torch functions of named tensors.

Rules that keep a program compilable once and for all:
- shapes are constants; what varies (slot, length, position, parameters) comes in as a tensor, never as a
  Python number, since a number is baked into the program;
- no tensor is changed in place, nothing is read back, nothing depends on the order of Python objects;
- one small float32 array goes back to the host: [rows, 2], token and logprob. Token ids are below 2^24,
  so float32 holds them exactly, and one transfer is cheaper than two. Only requests that ask for alternatives, or for
  the logprobs of their prompt, make another array travel.

A prompt goes into its slot in pieces, without its last token; each token then takes two programs, one that runs the
model and one that chooses:

    new request:  seat -> extend (one per shape of a piece) as often as it takes -> admit
    step:         forward (one per length) -> logits -> choose (one per Processing) -> scores (-> rank)
    with drafts:  verify (one per length) -> logits of each place -> accept (one per Processing) -> scores (-> rank)

The first step after `admit` feeds the prompt's last token, and so chooses the first token of the output like any other.
While a request with a grammar is live, one more goes in between: logits -> constrain -> logits. A step with drafts
does what several steps would have done, as far as these would have chosen the drafts.

So programs add up instead of multiplying, and the choice, which compiles slowly for its size, is compiled once
for each kind. Logits and scores stay on the device.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from text_generation_server.engine import kernels
from text_generation_server.engine.attention import over_pieces
from text_generation_server.engine.buckets import PieceShape
from text_generation_server.engine.cache import DecodeAccess, PieceAccess, kept_places, slot_cache, successors
from text_generation_server.engine.contract import MAX_RANKED
from text_generation_server.engine.experts import without_idle
from text_generation_server.engine.marks import EVERYWHERE, mark
from text_generation_server.engine.program import INPUT, STATE, Program, Spec
from text_generation_server.engine.state import (
    FLOAT_COLUMNS,
    INTEGER_COLUMNS,
    SCALES,
    BatchShape,
    positions_dimension,
)
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.masking import mask_disallowed
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import Processing, WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.ranking import rank

Tensors = Mapping[str, Tensor]


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


def constrain(shape: BatchShape) -> Program:
    """Keeps all tokens but the allowed ones from being chosen, see `mask_disallowed`.

    It takes `logits` [slots, vocabulary] and `allowed` [slots, words] int32, and returns `constrained` logits.
    """
    arguments = {
        "logits": Spec((shape.slots, shape.vocabulary), shape.dtype, INPUT),
        "allowed": Spec((shape.slots, words(shape.vocabulary)), "int32", INPUT),
    }

    def function(given: Tensors) -> dict[str, Tensor]:
        return {"constrained": mask_disallowed(given["logits"], given["allowed"])}

    return Program("constrain", function, arguments)


def choose_next(shape: BatchShape, processing: Processing, strength: WatermarkStrength) -> Program:
    """Chooses the next token of each slot and moves on.

    Args:
        processing: what the most demanding live slot needs. With NONE, `counts` are not kept up to date: then no
            live slot has penalties, and a slot that has gets its counts when it is admitted.

    It takes the rows and `logits` [slots, vocabulary]; it returns the rows that change, `chosen` [slots, 2] and the
    processed `scores` [slots, vocabulary].
    """
    logits = {"logits": Spec((shape.slots, shape.vocabulary), shape.dtype, INPUT)}

    def function(given: Tensors) -> dict[str, Tensor]:
        return advance(shape, processing, strength, given, given["logits"])

    return Program(
        f"choose {processing.name.lower()}", function, {**rows_of_choice(shape, processing), **logits}
    )


def accept(shape: BatchShape, processing: Processing, strength: WatermarkStrength) -> Program:
    """Chooses after the last token of each slot, and goes on as long as that chooses the slot's drafts.

    Each place is chosen as `choose` would have chosen it, from rows in which the drafts before it have been counted: so
    a slot ends as if it had made so many steps.

    It takes the rows, the logits that `verify` returns, `drafts` as `verify` takes them, and `drafted` [slots] int32,
    how many of a slot's drafts are not padding. It returns the rows that change, `chosen` [slots, shape.drafts + 1, 2],
    in which places that a slot did not come to are -1, and the processed scores of each place: `scores.0`, ...
    """
    rows = rows_of_choice(shape, processing)
    logits = Spec((shape.slots, shape.vocabulary), shape.dtype, INPUT)
    inputs = {f"logits.{place}": logits for place in range(shape.drafts + 1)}
    inputs |= {"drafts": drafts_of(shape), "drafted": Spec((shape.slots,), "int32", INPUT)}

    def function(given: Tensors) -> dict[str, Tensor]:
        state = {name: given[name] for name in rows}
        goes_on = torch.ones_like(given["positions"], dtype=torch.bool)
        chosen, scores = [], {}
        for place in range(shape.drafts + 1):
            results = advance(shape, processing, strength, state, given[f"logits.{place}"])
            scores[f"scores.{place}"] = results["scores"]
            chosen.append(torch.where(goes_on.unsqueeze(1), results["chosen"], -1.0))
            for name in state.keys() & results.keys():
                here = goes_on if state[name].dim() == 1 else goes_on.unsqueeze(1)
                state[name] = torch.where(here, results[name], state[name])
            if place < shape.drafts:
                is_draft = results["tokens"] == given["drafts"][:, place]
                goes_on = goes_on & is_draft & (given["drafted"] > place)
        return {**state, **scores, "chosen": torch.stack(chosen, dim=1)}

    return Program(f"accept {processing.name.lower()}", function, {**rows, **inputs})


def rows_of_choice(shape: BatchShape, processing: Processing) -> dict[str, Spec]:
    """What a choice reads of the rows."""
    rows = shape.rows()
    return {name: rows[name] for name in ("tokens", "positions")} if processing is Processing.NONE else rows


def advance(
    shape: BatchShape, processing: Processing, strength: WatermarkStrength, given: Tensors, logits: Tensor
) -> dict[str, Tensor]:
    """The rows that change with one choice, `chosen` and `scores`; see `choose_next`."""
    scores = logits.to(torch.float32)
    successor = {}
    if processing is Processing.NONE:
        chosen, logprob = choose_greedy(scores, gathered)
    else:
        counts, integers = given["counts"], given["integers"]
        history = History(counts, (given["positions"] + 1).unsqueeze(1), given["tokens"].unsqueeze(1))
        scores = process_rows(scores, history, given["floats"], integers, strength, processing)
        chosen, logprob = choose_rows(scores, history, integers)
        successor["counts"] = counts + one_hot(chosen, shape.vocabulary)
    successor |= {
        "tokens": chosen[:, 0],
        # Whoever is not live goes on up to the end of the slot and is parked behind it, where nothing is written.
        "positions": torch.clamp(given["positions"] + 1, max=shape.length),
    }
    return {**successor, "chosen": pack(chosen, logprob), "scores": scores}


def rank_tokens(shape: BatchShape) -> Program:
    """Finds the best tokens of each row of processed `scores` [slots, vocabulary].

    It returns `ranked` [slots, 2 * MAX_RANKED]: tokens, best first, then their logprobs.
    """

    def function(given: Tensors) -> dict[str, Tensor]:
        # On several chips, one meeting for all of it, and not one for each token.
        tokens, logprobs = rank(mark(given["scores"], EVERYWHERE), MAX_RANKED)
        return {"ranked": torch.cat([tokens.to(torch.float32), logprobs], dim=1)}

    scores = Spec((shape.slots, shape.vocabulary), "float32", INPUT)
    return Program("rank", function, {"scores": scores})


SCALAR = Spec((1,), "int32", INPUT)


def process_rows(
    logits: Tensor,
    history: History,
    floats: Tensor,
    integers: Tensor,
    strength: WatermarkStrength,
    processing: Processing = Processing.EVERYTHING,
) -> Tensor:
    """Processes the logits by each row's parameters, which are columns of `floats` and `integers`."""
    real = {name: floats[:, i : i + 1] for i, name in enumerate(FLOAT_COLUMNS)}
    parameters = ProcessingTensors(
        top_k=integer_column(integers, "top_k"), watermark=integer_column(integers, "watermark") != 0, **real
    )
    return process(logits, history, parameters, strength, processing)


def gathered(found: Tensor) -> Tensor:
    """What the parts of the vocabulary found, on all chips."""
    return mark(found, EVERYWHERE)


def choose_rows(scores: Tensor, history: History, integers: Tensor) -> tuple[Tensor, Tensor]:
    """Chooses by each row's seed; the position of the token to be chosen is the number of tokens so far."""
    seeds = integer_column(integers, "seed_low"), integer_column(integers, "seed_high")
    return choose(scores, integer_column(integers, "samples") != 0, seeds, history.length, gathered)


def integer_column(integers: Tensor, name: str) -> Tensor:
    """[rows, 1] int32."""
    index = INTEGER_COLUMNS.index(name)
    return integers[:, index : index + 1]


def one_hot(chosen: Tensor, count: int) -> Tensor:
    """[rows, count] int32 with a 1 at each row's token; added where a scatter would be slow on a TPU."""
    lanes = torch.arange(count, dtype=torch.int32, device=chosen.device).unsqueeze(0)
    return (lanes == chosen).to(torch.int32)


def pack(chosen: Tensor, logprob: Tensor) -> Tensor:
    """[rows, 2] float32: token id and logprob."""
    return torch.cat([chosen.to(torch.float32), logprob], dim=1)
