"""The programs that the engine runs, as pure torch functions of named tensors.

Rules that keep a program compilable once and for all:
- shapes are constants; what varies (slot, length, position, parameters) comes in as a tensor, never as a
  Python number, since a number is baked into the program;
- no tensor is changed in place, nothing is read back, nothing depends on the order of Python objects;
- one small float32 array goes back to the host: [rows, 2], token and logprob. Token ids are below 2^24,
  so float32 holds them exactly, and one transfer is cheaper than two. Only requests that ask for alternatives, or for
  the logprobs of their prompt, make another array travel.

Each token takes two programs, one that runs the model and one that chooses:

    new request:  prefill (one per bucket) -> logits -> admit (one per Processing) -> scores (-> rank)
    step:         forward (one per length) -> logits -> choose (one per Processing) -> scores (-> rank)

While a request with a grammar is live, one more goes in between: logits -> constrain -> logits.

So programs add up instead of multiplying, and the choice, which compiles slowly for its size, is compiled once
for each kind. Logits and scores stay on the device.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from text_generation_server.engine.cache import (
    DecodeAccess,
    PrefillAccess,
    ProbeAccess,
    slot_cache,
    successors,
)
from text_generation_server.engine.contract import MAX_RANKED
from text_generation_server.engine.marks import EVERYWHERE, mark
from text_generation_server.engine.program import INPUT, STATE, Program, Spec
from text_generation_server.engine.state import FLOAT_COLUMNS, INTEGER_COLUMNS, BatchShape
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.masking import mask_disallowed
from text_generation_server.sampling.packing import words
from text_generation_server.sampling.parameters import Processing, WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.ranking import rank

Tensors = Mapping[str, Tensor]

HEAD_BLOCK = 512
"""Rows of a prompt whose logits are made at a time when its logprobs are asked for: [512, vocabulary] float32."""


def prefill(model: Any, shape: BatchShape, bucket: int) -> Program:
    """Writes a prompt into one slot of the cache; the other slots are carried over.

    It takes `ids` [1, bucket] int32, padded at the end, `slot` and `length` [1] int32, and `adapter` [1] int32 for a
    model with adapters; it returns the cache and `logits` after the prompt, [1, vocabulary].
    """
    cache = shape.cache()
    inputs = {"ids": Spec((1, bucket), "int32", INPUT), "slot": SCALAR, "length": SCALAR}
    if shape.adapters:
        inputs["adapter"] = SCALAR

    def function(given: Tensors) -> dict[str, Tensor]:
        ids = given["ids"]
        layers = slot_cache([given[name] for name in cache], PrefillAccess(given["slot"]))
        logits = model(
            input_ids=ids,
            position_ids=torch.arange(bucket, dtype=torch.int32, device=ids.device).unsqueeze(0),
            past_key_values=layers,
            use_cache=True,
            # The LM head runs on the last token of the prompt only, not on the whole bucket.
            logits_to_keep=(given["length"] - 1).to(torch.int64),
            **({"adapters": given["adapter"]} if shape.adapters else {}),
        ).logits[:, 0]
        return {**dict(zip(cache, successors(layers), strict=True)), "logits": logits}

    return Program(f"prefill {bucket}", function, {**cache, **inputs})


def admit(shape: BatchShape, processing: Processing, strength: WatermarkStrength) -> Program:
    """Chooses the first token of a prompt and sets the slot's row.

    It takes `logits` [1, vocabulary], `slot`, `length` and `last` (the prompt's last token) [1] int32, `new_floats`
    [1, len(FLOAT_COLUMNS)] float32, `new_integers` [1, len(INTEGER_COLUMNS)] int32, and with any processing
    `new_counts` [1, vocabulary] int32, how often each token occurs in the prompt. It returns the rows, `chosen` [1, 2]
    and the processed `scores` [1, vocabulary].
    """
    rows = shape.rows()
    if processing is Processing.NONE:
        # Without penalties nobody looks at the counts of this slot.
        del rows["counts"]
    inputs = {
        "logits": Spec((1, shape.vocabulary), shape.dtype, INPUT),
        "slot": SCALAR,
        "length": SCALAR,
        "last": SCALAR,
        "new_floats": Spec((1, len(FLOAT_COLUMNS)), "float32", INPUT),
        "new_integers": Spec((1, len(INTEGER_COLUMNS)), "int32", INPUT),
    }
    if processing is not Processing.NONE:
        inputs["new_counts"] = Spec((1, shape.vocabulary), "int32", INPUT)

    def function(given: Tensors) -> dict[str, Tensor]:
        floats, integers, length = given["new_floats"], given["new_integers"], given["length"]
        scores = given["logits"].to(torch.float32)
        if processing is Processing.NONE:
            chosen, logprob = choose_greedy(scores, gathered)
        else:
            history = History(given["new_counts"], length.unsqueeze(1), given["last"].unsqueeze(1))
            scores = process_rows(scores, history, floats, integers, strength, processing)
            chosen, logprob = choose_rows(scores, history, integers)
        here = torch.arange(shape.slots, dtype=torch.int32, device=scores.device) == given["slot"]
        row = here.unsqueeze(1)
        successor = {
            "tokens": torch.where(here, chosen[:, 0], given["tokens"]),
            "positions": torch.where(here, length, given["positions"]),
            "floats": torch.where(row, floats, given["floats"]),
            "integers": torch.where(row, integers, given["integers"]),
        }
        if processing is not Processing.NONE:
            counts = given["new_counts"] + one_hot(chosen, shape.vocabulary)
            successor["counts"] = torch.where(row, counts, given["counts"])
        return {**successor, "chosen": pack(chosen, logprob), "scores": scores}

    return Program(f"admit {processing.name.lower()}", function, {**rows, **inputs})


def forward(model: Any, shape: BatchShape, seen_length: int) -> Program:
    """Feeds each slot's last token through the model.

    Args:
        seen_length: attention reads this many positions of the cache; every live position must be below it.

    It takes the cache and, unchanged, `tokens`, `positions` and for a model with adapters `adapters` [slots] int32; it
    returns the cache and `logits`, [slots, vocabulary].
    """
    cache, rows = shape.cache(), shape.rows()
    read = {"tokens": rows["tokens"], "positions": rows["positions"]}
    if shape.adapters:
        read["adapters"] = Spec((shape.slots,), "int32", STATE)

    def function(given: Tensors) -> dict[str, Tensor]:
        positions = given["positions"]
        layers = slot_cache([given[name] for name in cache], DecodeAccess(positions, seen_length))
        logits = model(
            input_ids=given["tokens"].unsqueeze(1),
            position_ids=positions.unsqueeze(1),
            past_key_values=layers,
            use_cache=True,
            **({"adapters": given["adapters"]} if shape.adapters else {}),
        ).logits[:, -1]
        return {**dict(zip(cache, successors(layers), strict=True)), "logits": logits}

    return Program(f"forward {seen_length}", function, {**cache, **read})


def constrain(shape: BatchShape, rows: int) -> Program:
    """Keeps all tokens but the allowed ones from being chosen, see `mask_disallowed`.

    It takes `logits` [rows, vocabulary] and `allowed` [rows, words] int32, and returns `logits`.
    """
    arguments = {
        "logits": Spec((rows, shape.vocabulary), shape.dtype, INPUT),
        "allowed": Spec((rows, words(shape.vocabulary)), "int32", INPUT),
    }

    def function(given: Tensors) -> dict[str, Tensor]:
        return {"constrained": mask_disallowed(given["logits"], given["allowed"])}

    return Program(f"constrain {rows}", function, arguments)


def choose_next(shape: BatchShape, processing: Processing, strength: WatermarkStrength) -> Program:
    """Chooses the next token of each slot and moves on.

    Args:
        processing: what the most demanding live slot needs. With NONE, `counts` are not kept up to date: then no
            live slot has penalties, and a slot that has gets its counts when it is admitted.

    It takes the rows and `logits` [slots, vocabulary]; it returns the rows that change, `chosen` [slots, 2] and the
    processed `scores` [slots, vocabulary].
    """
    rows = shape.rows()
    if processing is Processing.NONE:
        rows = {name: rows[name] for name in ("tokens", "positions")}
    logits = {"logits": Spec((shape.slots, shape.vocabulary), shape.dtype, INPUT)}

    def function(given: Tensors) -> dict[str, Tensor]:
        scores = given["logits"].to(torch.float32)
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
            # A slot that is not live goes on computing into its own last place, which no request reads.
            "positions": torch.clamp(given["positions"] + 1, max=shape.length - 1),
        }
        return {**successor, "chosen": pack(chosen, logprob), "scores": scores}

    return Program(f"choose {processing.name.lower()}", function, {**rows, **logits})


def rank_tokens(shape: BatchShape, rows: int) -> Program:
    """Finds the best tokens of each row of processed `scores` [rows, vocabulary].

    It returns `ranked` [rows, 2 * MAX_RANKED]: tokens, best first, then their logprobs.
    """

    def function(given: Tensors) -> dict[str, Tensor]:
        # On several chips, one meeting for all of it, and not one for each token.
        tokens, logprobs = rank(mark(given["scores"], EVERYWHERE), MAX_RANKED)
        return {"ranked": torch.cat([tokens.to(torch.float32), logprobs], dim=1)}

    return Program(f"rank {rows}", function, {"scores": Spec((rows, shape.vocabulary), "float32", INPUT)})


def score_prompt(model: Any, shape: BatchShape, bucket: int) -> Program:
    """Finds the logprob of each token of a prompt, given those before it. It touches no state.

    It takes `ids` [1, bucket] int32, padded at the end, and `adapter` as `prefill`; it returns `logprobs` [bucket - 1],
    of tokens 1, 2, ...; those of padding mean nothing. Logits are made for HEAD_BLOCK rows at a time.
    """
    inputs = {"ids": Spec((1, bucket), "int32", INPUT)}
    if shape.adapters:
        inputs["adapter"] = SCALAR

    def function(given: Tensors) -> dict[str, Tensor]:
        ids = given["ids"]
        adapters = {"adapters": given["adapter"]} if shape.adapters else {}
        hidden = model.base_model(
            input_ids=ids,
            position_ids=torch.arange(bucket, dtype=torch.int32, device=ids.device).unsqueeze(0),
            past_key_values=slot_cache([ids] * (2 * len(shape.layers)), ProbeAccess()),
            use_cache=True,
            **adapters,
        ).last_hidden_state
        found = []
        for start in range(0, bucket - 1, HEAD_BLOCK):
            end = min(start + HEAD_BLOCK, bucket - 1)
            scores = model.logits_of(hidden[:, start:end], **adapters)[0].to(torch.float32)
            chosen = torch.gather(scores, 1, ids[0, start + 1 : end + 1].to(torch.int64).unsqueeze(1))
            found.append(chosen[:, 0] - torch.logsumexp(scores, dim=-1))
        return {"logprobs": torch.cat(found)}

    return Program(f"score prompt {bucket}", function, inputs)


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
