"""Refusal of what only the stock launcher can serve."""

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.options.command import Choices
from tpu_tgi.options.table import OPTIONS, STOCK_ONLY_VARIABLES


def refuse_stock_only(choices: Choices) -> None:
    """Raises InvalidSettingError for the first option that the embedded launcher cannot serve."""
    given = [
        choices.sources[option.name]
        for option in OPTIONS
        if option.stock_only and option.name in choices.sources
    ]
    given += [word for word in choices.rest if word.startswith("-")] or list(choices.rest)
    given += [name for name in STOCK_ONLY_VARIABLES if choices.environment.get(name)]
    if given:
        raise InvalidSettingError(
            f"`{given[0]}` cannot be served by the embedded launcher, which takes the options of "
            "`tpu-tgi --help`. Leave it out, or put text-generation-launcher and text-generation-router in PATH"
        )
