"""The programs that the engine runs, as pure torch functions on flat lists of tensors.

Rules that keep a program compilable once and for all:
- shapes are constants; what varies (slot, length, position, parameters) comes in as a tensor, never as a
  Python number, since a number is baked into the program;
- no tensor is changed in place, nothing is read back, nothing depends on the order of Python objects;
- one small float32 array goes back to the host: [rows, 2], token and logprob. Token ids are below 2^24,
  so float32 holds them exactly, and one transfer is cheaper than two. Only requests that ask for alternatives, or for
  the logprobs of their prompt, make another array travel.

Each token takes two programs, one that runs the model and one that chooses:

    new request:  prefill (one per bucket) -> logits -> admit -> scores (-> rank)
    step:         forward (one per length) -> logits -> choose (one per Processing) -> scores (-> rank)

While a request with a grammar is live, one more goes in between: logits -> constrain -> logits.

So programs add up instead of multiplying, and the choice, which compiles slowly for its size, is compiled once
for each kind. Logits and scores stay on the device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from text_generation_server.engine.cache import DecodeStep, PrefillStep, ProbeStep, slot_cache, successors
from text_generation_server.engine.contract import MAX_RANKED
from text_generation_server.engine.state import FLOAT_COLUMNS, INTEGER_COLUMNS, SlotRows
from text_generation_server.sampling.choice import choose, choose_greedy
from text_generation_server.sampling.masking import mask_disallowed
from text_generation_server.sampling.parameters import Processing, WatermarkStrength
from text_generation_server.sampling.processing import History, ProcessingTensors, process
from text_generation_server.sampling.ranking import rank


@dataclass(frozen=True)
class Program:
    """A function on flat lists of tensors, and what it takes to compile it.

    Attributes:
        function: takes tensors like `arguments`; its first `donated` outputs succeed its first `donated` arguments,
            the others are results.
        arguments: tensors on the device with the shapes of all runs.
        donated: how many arguments give their buffers away.
    """

    function: Callable[[list[Tensor]], list[Tensor]]
    arguments: list[Tensor]
    donated: int


def prefill(
    model: nn.Module, cache: list[Tensor], ids: Tensor, placement: Tensor, adapters: list[Tensor]
) -> Program:
    """Writes a prompt into one slot of the cache; the other slots are carried over.

    Args:
        ids: [1, bucket] int32, padded at the end.
        placement: [2] int32, slot and length.
        adapters: empty, or for an AdaptedModel one tensor, [1] int32, the index of the prompt's adapter.

    The function returns the cache and the logits after the prompt, [1, vocabulary].
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        old, (ids, placement, *adapters) = arguments[: len(cache)], arguments[len(cache) :]
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
            **adapter_inputs(adapters),
        ).logits[:, 0]
        return [*successors(layers), logits]

    return Program(function, [*cache, ids, placement, *adapters], len(cache))


def adapter_inputs(adapters: list[Tensor]) -> dict[str, Tensor]:
    """What an AdaptedModel takes beside the model's inputs; nothing for a model without adapters."""
    return {"adapters": adapters[0]} if adapters else {}


def admit(rows: SlotRows, inputs: list[Tensor], strength: WatermarkStrength) -> Program:
    """Chooses the first token of a prompt and sets the slot's row.

    Args:
        inputs: logits [1, vocabulary]; ids [1, length] int32, padded at the end; placement [2] int32, slot and length;
            floats [len(FLOAT_COLUMNS)] float32; integers [len(INTEGER_COLUMNS)] int32.

    The function returns the rows, the choice, [1, 2], and the processed scores, [1, vocabulary].
    """
    row_tensors = rows.flatten()

    def function(arguments: list[Tensor]) -> list[Tensor]:
        rows = SlotRows(*arguments[: len(row_tensors)])
        logits, ids, placement, floats, integers = arguments[len(row_tensors) :]
        slot, length = placement[0:1], placement[1:2]
        occurs = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device) < length
        empty = torch.zeros(rows.counts.shape[1], dtype=torch.int32, device=ids.device)
        counts = empty.scatter_add(0, ids[0].to(torch.int64), occurs.to(torch.int32)).unsqueeze(0)
        last = torch.gather(ids, 1, (length - 1).to(torch.int64).unsqueeze(0))
        history = History(counts, length.unsqueeze(1), last)
        scores = process_rows(logits, history, floats.unsqueeze(0), integers.unsqueeze(0), strength)
        chosen, logprob = choose_rows(scores, history, integers.unsqueeze(0))
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
        return [*successor.flatten(), pack(chosen, logprob), scores]

    return Program(function, [*row_tensors, *inputs], len(row_tensors))


def forward(
    model: nn.Module, cache: list[Tensor], rows: SlotRows, seen_length: int, adapters: list[Tensor]
) -> Program:
    """Feeds each slot's last token through the model.

    Args:
        seen_length: attention reads this many positions of the cache; every live position must be below it.
        adapters: empty, or for an AdaptedModel one tensor, [slots] int32, the index of each slot's adapter.

    The function returns the cache and the logits, [slots, vocabulary].
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        old, (tokens, positions, *adapters) = arguments[: len(cache)], arguments[len(cache) :]
        layers = slot_cache(old, DecodeStep(positions, seen_length))
        logits = model(
            input_ids=tokens.unsqueeze(1),
            position_ids=positions.unsqueeze(1),
            past_key_values=layers,
            use_cache=True,
            **adapter_inputs(adapters),
        ).logits[:, -1]
        return [*successors(layers), logits]

    return Program(function, [*cache, rows.tokens, rows.positions, *adapters], len(cache))


def constrain(logits: Tensor, allowed: Tensor) -> Program:
    """Keeps all tokens but the allowed ones from being chosen; see `mask_disallowed`.

    The function returns the logits, [rows, vocabulary].
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        logits, allowed = arguments
        return [mask_disallowed(logits, allowed)]

    return Program(function, [logits, allowed], 0)


def choose_next(
    rows: SlotRows, logits: Tensor, length: int, processing: Processing, strength: WatermarkStrength
) -> Program:
    """Chooses the next token of each slot and moves on.

    Args:
        logits: [slots, vocabulary].
        length: of a slot.
        processing: what the most demanding live slot needs. With NONE, `counts` are not kept up to date: then no
            live slot has penalties, and a slot gets its counts when it is admitted.

    The function returns the rows, the choices, [slots, 2], and the processed scores, [slots, vocabulary].
    """
    row_tensors = rows.flatten()

    def function(arguments: list[Tensor]) -> list[Tensor]:
        *row_arguments, logits = arguments
        rows = SlotRows(*row_arguments)
        counts = rows.counts
        scores = logits.to(torch.float32)
        if processing is Processing.NONE:
            chosen, logprob = choose_greedy(scores)
        else:
            history = History(counts, (rows.positions + 1).unsqueeze(1), rows.tokens.unsqueeze(1))
            scores = process_rows(logits, history, rows.floats, rows.integers, strength, processing)
            chosen, logprob = choose_rows(scores, history, rows.integers)
            counts = counts + one_hot(chosen, counts.shape[1])
        successor = SlotRows(
            tokens=chosen[:, 0],
            # A slot that is not live goes on computing into its own last place, which no request reads.
            positions=torch.clamp(rows.positions + 1, max=length - 1),
            floats=rows.floats,
            integers=rows.integers,
            counts=counts,
        )
        return [*successor.flatten(), pack(chosen, logprob), scores]

    return Program(function, [*row_tensors, logits], len(row_tensors))


def rank_tokens(scores: Tensor) -> Program:
    """Finds the best tokens of each row of processed scores.

    The function returns [rows, 2 * MAX_RANKED]: tokens, best first, then their logprobs.
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        tokens, logprobs = rank(arguments[0], MAX_RANKED)
        return [torch.cat([tokens.to(torch.float32), logprobs], dim=1)]

    return Program(function, [scores], 0)


def score_prompt(model: nn.Module, layers: int, ids: Tensor, adapters: list[Tensor]) -> Program:
    """Finds the logprob of each token of a prompt, given those before it. It touches no state.

    Args:
        ids: [1, bucket] int32, padded at the end; what it returns for padding means nothing.
        adapters: as for `prefill`.

    The function returns [bucket - 1]: the logprobs of tokens 1, 2, ...
    """

    def function(arguments: list[Tensor]) -> list[Tensor]:
        ids, *adapters = arguments
        logits = model(
            input_ids=ids,
            position_ids=torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device).unsqueeze(0),
            past_key_values=slot_cache([ids] * (2 * layers), ProbeStep()),
            use_cache=True,
            **adapter_inputs(adapters),
        ).logits[0, :-1]
        scores = logits.to(torch.float32)
        chosen = torch.gather(scores, 1, ids[0, 1:].to(torch.int64).unsqueeze(1))
        return [chosen[:, 0] - torch.logsumexp(scores, dim=-1)]

    return Program(function, [ids, *adapters], 0)


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


def choose_rows(scores: Tensor, history: History, integers: Tensor) -> tuple[Tensor, Tensor]:
    """Chooses by each row's seed; the position of the token to be chosen is the number of tokens so far."""
    seeds = integer_column(integers, "seed_low"), integer_column(integers, "seed_high")
    return choose(scores, integer_column(integers, "samples") != 0, seeds, history.length)


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
