"""Whatever is given, the derived numbers pass the checks of every program that reads them, or the message says how."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from launcher.stock_checks import (
    check_launcher,
    check_launcher_1_4,
    check_shard_and_v2_router,
    check_shard_and_v3_router,
)
from text_generation_server.errors import InvalidSettingError
from text_generation_server.wire.limits import WireVersion
from tpu_tgi.parameters.derivation import Parameters, derive
from tpu_tgi.parameters.given import Given, Number

SMALL_AND_LARGE = st.one_of(st.integers(1, 40), st.integers(1, 20_000))


def numbers(*sources: str) -> st.SearchStrategy[tuple[Number, ...]]:
    """None, or one, or each of the sources with a number; mostly the same."""
    different = st.tuples(*(st.builds(Number, st.just(source), SMALL_AND_LARGE) for source in sources))
    alike = SMALL_AND_LARGE.map(lambda value: tuple(Number(source, value) for source in sources))
    return st.one_of(st.just(()), different.map(lambda found: found[:1]), alike, different)


def number(source: str) -> st.SearchStrategy[Number | None]:
    return st.none() | st.builds(Number, st.just(source), SMALL_AND_LARGE)


GIVEN = st.builds(
    Given,
    batch_size=numbers("HF_BATCH_SIZE", "--max-batch-size"),
    sequence_length=numbers("HF_SEQUENCE_LENGTH", "--max-total-tokens"),
    max_input_tokens=numbers("--max-input-tokens", "MAX_INPUT_LENGTH"),
    max_batch_prefill_tokens=number("--max-batch-prefill-tokens"),
    max_batch_total_tokens=number("MAX_BATCH_TOTAL_TOKENS"),
    max_concurrent_requests=number("--max-concurrent-requests"),
    chips=numbers("HF_NUM_CHIPS", "--num-shard"),
)
POSITIONS = st.none() | st.sampled_from([2, 64, 1024, 2048, 8192, 131_072])
WIRES = st.sampled_from(list(WireVersion))

PROPOSAL = re.compile(r"`(--[a-z-]+ \d+|[A-Z_]+=\d+)` (?:(?!` would).)*?: `(\S+?)[ =](\d+)` would work")

OLD_README = Given(
    max_concurrent_requests=Number("--max-concurrent-requests", 1),
    max_input_tokens=(Number("--max-input-length", 512),),
    sequence_length=(Number("--max-total-tokens", 1024),),
    max_batch_prefill_tokens=Number("--max-batch-prefill-tokens", 512),
    max_batch_total_tokens=Number("--max-batch-total-tokens", 1024),
)


def derived(what: Given, positions: int | None, wire: WireVersion) -> Parameters:
    return derive(what, positions, wire, needs_lengths=wire is WireVersion.V2)


def changed(what: Given, source: str, value: int) -> Given:
    """The same, but another number from this source."""

    def one(number: Number | None) -> Number | None:
        return number.but(value) if number and number.source == source else number

    def each(numbers: tuple[Number, ...]) -> tuple[Number, ...]:
        return tuple(number.but(value) if number.source == source else number for number in numbers)

    return Given(
        each(what.batch_size),
        each(what.sequence_length),
        each(what.max_input_tokens),
        each(what.chips),
        one(what.max_batch_prefill_tokens),
        one(what.max_batch_total_tokens),
        one(what.max_concurrent_requests),
    )


def every_number(what: Given) -> list[Number]:
    fields = [field if isinstance(field, tuple) else (field,) for field in vars(what).values()]
    return [number for field in fields for number in field if number is not None]


@given(GIVEN, POSITIONS, WIRES)
@example(OLD_README, 8192, WireVersion.V2)
@example(OLD_README, 8192, WireVersion.V3)
def test_what_is_derived_passes_every_check(what: Given, positions: int | None, wire: WireVersion) -> None:
    try:
        parameters = derived(what, positions, wire)
    except InvalidSettingError:
        assume(False)
    check_launcher(parameters)
    if wire is WireVersion.V2:
        check_launcher_1_4(parameters)
        check_shard_and_v2_router(parameters)
    elif parameters.sequence_length is not None:
        check_shard_and_v3_router(parameters)
    if positions is not None:
        assert parameters.sequence_length is not None
        assert parameters.sequence_length <= positions


@given(GIVEN, POSITIONS, WIRES)
def test_what_was_given_is_kept(what: Given, positions: int | None, wire: WireVersion) -> None:
    try:
        parameters = derived(what, positions, wire)
    except InvalidSettingError:
        assume(False)
    for given_numbers, kept in (
        (what.batch_size, parameters.batch_size),
        (what.sequence_length, parameters.sequence_length),
        (what.max_input_tokens, parameters.max_input_tokens),
        ((what.max_batch_prefill_tokens,), parameters.max_batch_prefill_tokens),
        ((what.max_batch_total_tokens,), parameters.max_batch_total_tokens),
        ((what.max_concurrent_requests,), parameters.max_concurrent_requests),
    ):
        assert {number.value for number in given_numbers if number is not None} <= {kept}


@given(GIVEN, POSITIONS, WIRES)
def test_a_contradiction_names_numbers_that_were_given_and_others_that_work(
    what: Given, positions: int | None, wire: WireVersion
) -> None:
    try:
        derived(what, positions, wire)
    except InvalidSettingError as refusal:
        message = str(refusal)
    else:
        assume(False)
    found = PROPOSAL.findall(message)
    assert len(found) == message.count("would work")
    repaired = what
    for named, source, works in found:
        assert named in map(str, every_number(what))
        assert named.startswith(source)
        repaired = changed(repaired, source, int(works))
    derived(repaired, positions, wire)


@given(POSITIONS, WIRES)
def test_nothing_has_to_be_given(positions: int | None, wire: WireVersion) -> None:
    parameters = derived(Given(), positions, wire)
    # The shard knows its device, and chooses the largest batch that fits there.
    assert parameters.batch_size is None
    assert parameters.max_concurrent_requests is None
    if positions is not None:
        assert parameters.sequence_length == min(positions, 2048)
    else:
        assert parameters.sequence_length == (2048 if wire is WireVersion.V2 else None)


@pytest.mark.parametrize("wire", WireVersion)
def test_two_numbers_are_enough(wire: WireVersion) -> None:
    two = Given((Number("HF_BATCH_SIZE", 100),), (Number("HF_SEQUENCE_LENGTH", 512),))
    assert derived(two, 4096, wire) == Parameters(
        batch_size=100,
        sequence_length=512,
        max_input_tokens=511,
        max_batch_prefill_tokens=512,
        max_batch_total_tokens=None,
        max_concurrent_requests=200,
    )


@pytest.mark.parametrize("wire", WireVersion)
def test_the_command_line_of_the_old_readme_means_one_slot(wire: WireVersion) -> None:
    assert derived(OLD_README, 8192, wire) == Parameters(
        batch_size=1,
        sequence_length=1024,
        max_input_tokens=512,
        max_batch_prefill_tokens=512,
        max_batch_total_tokens=1024,
        max_concurrent_requests=1,
    )


def test_one_message_names_everything_that_has_to_change() -> None:
    what = Given(
        batch_size=(Number("HF_BATCH_SIZE", 8), Number("--max-batch-size", 4)),
        sequence_length=(Number("--max-total-tokens", 9000),),
        max_batch_prefill_tokens=Number("--max-batch-prefill-tokens", 100),
        max_input_tokens=(Number("--max-input-length", 200),),
    )
    with pytest.raises(InvalidSettingError) as refusal:
        derived(what, 8192, WireVersion.V3)
    assert str(refusal.value).split("; ") == [
        "`--max-batch-size 4` contradicts `HF_BATCH_SIZE=8`: `--max-batch-size 8` would work",
        "`--max-total-tokens 9000` is more than the model allows, 8192 tokens: `--max-total-tokens 8192` would work",
        "`--max-batch-prefill-tokens 100` is too small for `--max-input-length 200`: "
        "`--max-batch-prefill-tokens 200` would work",
    ]


def test_a_long_prompt_makes_room_for_its_answer() -> None:
    what = Given(max_input_tokens=(Number("--max-input-tokens", 4000),))
    assert derived(what, 8192, WireVersion.V3).sequence_length == 5024
    assert derived(what, 4096, WireVersion.V3).sequence_length == 4096
    assert derived(what, None, WireVersion.V3).sequence_length == 5024


def test_one_user_gets_one_slot() -> None:
    what = Given(max_concurrent_requests=Number("--max-concurrent-requests", 1))
    assert derived(what, 8192, WireVersion.V3).batch_size == 1


def test_slots_that_can_never_be_used_are_remarked() -> None:
    what = Given(
        (Number("HF_BATCH_SIZE", 8),), max_concurrent_requests=Number("--max-concurrent-requests", 2)
    )
    assert derived(what, 8192, WireVersion.V3).remarks == (
        "`--max-concurrent-requests 2` leaves 6 of 8 slots unused",
    )
