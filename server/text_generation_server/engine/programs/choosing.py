"""Programs that make tokens of logits: constrain, choose, accept, rank."""

import torch
from torch import Tensor

from text_generation_server.engine.contract import MAX_RANKED
from text_generation_server.engine.marks import EVERYWHERE, mark
from text_generation_server.engine.program import INPUT, Program, Spec, Tensors
from text_generation_server.engine.programs.steps import drafts_of
from text_generation_server.engine.state import FLOAT_COLUMNS, INTEGER_COLUMNS, BatchShape
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.masking import mask_disallowed
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import Processing, WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.ranking import rank


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
