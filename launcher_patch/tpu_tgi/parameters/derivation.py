"""Batch size B and sequence length T -> all numbers of launcher, router and shard.

The rules are the checks of the stock launcher and routers (protocol sections 1.5 and 6.7) and of the shard
(`text_generation_server.wire.limits`); docs/parameters.md has every option.
"""

from dataclasses import dataclass

from text_generation_server.errors import InvalidSettingError
from text_generation_server.settings import CPU_BATCH_SIZE
from text_generation_server.wire.limits import WireVersion
from tpu_tgi.parameters.contradictions import Contradictions
from tpu_tgi.parameters.given import Given, Number

# As the shard has it, `engine.model.DEFAULT_MAX_LENGTH`, which cannot be imported without torch.
DEFAULT_SEQUENCE_LENGTH = 2048

# Added to a longest prompt that leaves no room for an answer: what a router asks for at a time.
DEFAULT_ANSWER_TOKENS = 1024

DEFAULT_CONCURRENT_REQUESTS = 128


@dataclass(frozen=True)
class Parameters:
    """A set that launcher, router and shard accept. Lengths are in tokens; None leaves a number to the shard.

    Attributes:
        batch_size: B, the slots of the static batch. The shard takes what fits in its device, and 4 on a CPU.
        sequence_length: T, tokens of one slot.
        max_input_tokens: the longest prompt, below T.
        max_batch_prefill_tokens: prompt tokens in one prefill: from the longest prompt to what the slots hold.
        max_batch_total_tokens: as given; the routers take the shard's own number and warn if there is another.
        max_concurrent_requests: requests that run or wait; None leaves it to the router, which learns the batch size.
        chips: that share the model; None: all of the host.
        remarks: what works, and is perhaps not meant.
    """

    batch_size: int | None
    sequence_length: int | None
    max_input_tokens: int | None
    max_batch_prefill_tokens: int | None
    max_batch_total_tokens: int | None
    max_concurrent_requests: int | None
    chips: int | None = None
    remarks: tuple[str, ...] = ()


def derive(given: Given, positions: int | None, wire: WireVersion, *, needs_lengths: bool) -> Parameters:
    """The parameters for a router of this wire version.

    Args:
        positions: the longest sequence that the model allows; None if nobody knows before it is loaded.
        needs_lengths: the router does not ask the shard for what it was not told.

    Raises:
        InvalidSettingError: the given numbers contradict each other or the model; the message names every one
            that has to change, and a value that works.
    """
    wrong = Contradictions()
    chips = wrong.agreed(given.chips)
    batch = wrong.agreed(given.batch_size)
    total = wrong.agreed(given.sequence_length)
    longest = wrong.agreed(given.max_input_tokens)
    prefill, budget = given.max_batch_prefill_tokens, given.max_batch_total_tokens
    concurrent = given.max_concurrent_requests

    if total is not None:
        total = wrong.at_least(total, 2, "leaves no room for a prompt and an answer")
        if positions is not None:
            total = wrong.at_most(total, positions, f"is more than the model allows, {positions} tokens")
    length = None if total is None else total.value
    if budget is not None:
        budget = affordable_budget(wrong, budget, batch, length, positions)
        if length is None:
            length = (
                budget.value // batch.value
                if batch
                else min(default_length(positions, longest), budget.value)
            )
    elif length is None and (needs_lengths or positions is not None or longest_is_long(longest)):
        length = default_length(positions, longest)

    slots: int | None
    if batch is not None:
        slots = batch.value
    elif budget is not None and length is not None:
        slots = budget.value // length
    elif concurrent is not None and concurrent.value < CPU_BATCH_SIZE:
        # More slots than the shard's smallest choice would stay empty, and make each step longer.
        slots = concurrent.value
    else:
        slots = None
    longest, prefill = fitting_prompts(wrong, longest, prefill, slots, length, wire)
    if message := str(wrong):
        raise InvalidSettingError(message)

    remarks = []
    if concurrent is not None and slots is not None and concurrent.value < slots:
        remarks.append(f"`{concurrent}` leaves {slots - concurrent.value} of {slots} slots unused")
    return Parameters(
        batch_size=slots,
        sequence_length=length,
        max_input_tokens=longest_prompt(longest, prefill, length),
        max_batch_prefill_tokens=prefill.value if prefill else length,
        max_batch_total_tokens=budget.value if budget else None,
        max_concurrent_requests=concurrent.value if concurrent else slots and concurrent_requests(slots),
        chips=chips.value if chips else None,
        remarks=tuple(remarks),
    )


def concurrent_requests(slots: int) -> int:
    """How many requests may run or wait if nobody says: as many again as run."""
    return max(DEFAULT_CONCURRENT_REQUESTS, 2 * slots)


def default_length(positions: int | None, longest: Number | None) -> int:
    """What the shard would choose, or more where a longest prompt needs it."""
    length = DEFAULT_SEQUENCE_LENGTH
    if longest is not None and longest.value >= length:
        length = longest.value + DEFAULT_ANSWER_TOKENS
    return length if positions is None else min(length, positions)


def longest_is_long(longest: Number | None) -> bool:
    """Whether the shard's own choice of a length would be too short for this prompt."""
    return longest is not None and longest.value >= DEFAULT_SEQUENCE_LENGTH


def affordable_budget(
    wrong: Contradictions, budget: Number, batch: Number | None, length: int | None, positions: int | None
) -> Number:
    """--max-batch-total-tokens, which is B*T; B*T to (B+1)*T is taken, as a v3 router needs a spare block."""
    slots = batch.value if batch else 1
    if length is None:
        budget = wrong.at_least(budget, 2 * slots, f"leaves no room for prompt and answer in {slots} slots")
        if batch is not None and positions is not None:
            too_long = f"means slots of {budget.value // slots} tokens, but the model allows {positions}"
            budget = wrong.at_most(budget, slots * positions + slots - 1, too_long, slots * positions)
        return budget
    needed = f"does not fit {slots} slots of {length} tokens"
    budget = wrong.at_least(budget, slots * length, needed)
    return wrong.at_most(budget, (slots + 1) * length, needed, slots * length) if batch else budget


def fitting_prompts(
    wrong: Contradictions,
    longest: Number | None,
    prefill: Number | None,
    slots: int | None,
    length: int | None,
    wire: WireVersion,
) -> tuple[Number | None, Number | None]:
    """The longest prompt and the prefill budget, as far as given, made to fit the slots and each other.

    Where the shard chooses the number of slots, only it can say that a prefill budget is more than they hold.
    """
    if longest is not None and length is not None:
        works = length - 1 if prefill is None else min(length - 1, prefill.value)
        needs_room = f"must leave room for an answer within {length} tokens"
        longest = wrong.at_most(longest, length - 1, needs_room, works)
    if prefill is not None and longest is not None:
        prefill = wrong.at_least(prefill, longest.value, f"is too small for `{longest}`")
    if prefill is not None and length is not None and slots is not None:
        in_flight = length * (slots + 1 if wire is WireVersion.V3 else slots)
        prefill = wrong.at_most(prefill, in_flight, f"is more than {slots} slots of {length} tokens may hold")
    return longest, prefill


def longest_prompt(longest: Number | None, prefill: Number | None, length: int | None) -> int | None:
    """As given, else whatever leaves room for an answer and fits one prefill."""
    if longest is not None:
        return longest.value
    if length is None:
        return None
    return min(length - 1, prefill.value) if prefill else length - 1
