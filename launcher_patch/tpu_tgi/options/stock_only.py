"""Options that only the stock launcher knows: passed on to it as they are, refused by the embedded one."""

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.options.command import Choices
from tpu_tgi.options.table import OPTIONS

# Their names as variables, which nobody else would notice. MASTER_ADDR and MASTER_PORT are not among them: other
# programs set these, and they say nothing to one process.
STOCK_ONLY_VARIABLES = (
    "SHARDED",
    "SPECULATE",
    "KV_CACHE_DTYPE",
    "CUDA_GRAPHS",
    "CUDA_MEMORY_FRACTION",
    "DISABLE_CUSTOM_KERNELS",
    "ROPE_SCALING",
    "ROPE_FACTOR",
    "NGROK",
    "NGROK_AUTHTOKEN",
    "NGROK_EDGE",
    "USAGE_STATS",
)


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
