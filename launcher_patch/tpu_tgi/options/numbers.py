"""The numbers that depend on each other, from options and from the two variables that are no options."""

from collections.abc import Mapping

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.options.command import Choices
from tpu_tgi.parameters.given import Given, Number


def given_numbers(choices: Choices) -> Given:
    """Raises InvalidSettingError if a variable is not a positive integer."""
    return Given(
        batch_size=every(variable("HF_BATCH_SIZE", choices.environment), choices.number("max_batch_size")),
        sequence_length=every(
            variable("HF_SEQUENCE_LENGTH", choices.environment), choices.number("max_total_tokens")
        ),
        max_input_tokens=every(choices.number("max_input_tokens"), choices.number("max_input_length")),
        max_batch_prefill_tokens=choices.number("max_batch_prefill_tokens"),
        max_batch_total_tokens=choices.number("max_batch_total_tokens"),
        max_concurrent_requests=choices.number("max_concurrent_requests"),
        chips=every(variable("HF_NUM_CHIPS", choices.environment), choices.number("num_shard")),
    )


def every(*numbers: Number | None) -> tuple[Number, ...]:
    return tuple(number for number in numbers if number is not None)


def variable(name: str, environment: Mapping[str, str]) -> Number | None:
    """An empty variable counts as absent."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InvalidSettingError(f"`{name}={text}` must be a positive integer: `{name}=4` would work")
    return Number(name, int(text))
