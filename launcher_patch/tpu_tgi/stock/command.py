"""How the stock launcher is called: every number that has to agree, what was given, and the rest as it came."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.embedded.shard_process import EXECUTABLE
from tpu_tgi.options.command import Choices
from tpu_tgi.options.option import Option, Panel
from tpu_tgi.options.table import OPTIONS, Dtype
from tpu_tgi.parameters.derivation import Parameters
from tpu_tgi.stock.programs import StockPrograms

# Their default here is not the stock launcher's, so they are passed on even if nobody gave them.
ALWAYS = ("waiting_served_ratio",)

LEVELS = {"SUCCESS": "info", "WARNING": "warn", "CRITICAL": "error"}


def launcher_command(
    programs: StockPrograms, choices: Choices, parameters: Parameters, prometheus_port: int | None
) -> list[str]:
    """The command line. Options that were given as variables stay variables, unless they were derived from."""
    command = [programs.launcher, *shape_arguments(programs, parameters)]
    for option in OPTIONS:
        if option.own or option.panel is Panel.SHAPE or passes_by(option):
            continue
        if option.name in ALWAYS or choices.sources.get(option.name) == option.flag:
            command += arguments(option, stock_value(option, choices.values[option.name]))
    if prometheus_port is not None:
        command += ["--prometheus-port", str(prometheus_port)]
    return [*command, *choices.rest]


def passes_by(option: Option) -> bool:
    """Whether the shard reads it from a variable of ours: stock launchers know it since lately, and not all values."""
    return option.shard_variable is not None and option.shard_variable.startswith("TPU_TGI_")


def stock_value(option: Option, value: Any) -> Any:
    """The stock launcher has another word for int8."""
    return "eetq" if (option.name, value) == ("quantize", "int8") else value


def shape_arguments(programs: StockPrograms, parameters: Parameters) -> list[str]:
    """The numbers that have to agree with each other, as far as they are known."""
    longest = "--max-input-tokens" if programs.launcher_version >= (2, 0) else "--max-input-length"
    numbers = {
        # One process drives all chips. Without it the launcher counts the devices of CUDA_VISIBLE_DEVICES.
        "--num-shard": 1,
        "--max-batch-size": parameters.batch_size,
        "--max-total-tokens": parameters.sequence_length,
        longest: parameters.max_input_tokens,
        "--max-batch-prefill-tokens": parameters.max_batch_prefill_tokens,
        "--max-batch-total-tokens": parameters.max_batch_total_tokens,
        "--max-concurrent-requests": parameters.max_concurrent_requests,
    }
    return [word for flag, value in numbers.items() if value is not None for word in (flag, str(value))]


def arguments(option: Option, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option.flag] if value else []
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (option.flag, str(one))]


def launcher_environment(programs: StockPrograms, choices: Choices, parameters: Parameters) -> dict[str, str]:
    """The variables for the launcher and everybody below it.

    What the numbers were derived from is taken out: the launcher would read it again, and refuses both names of one
    option. So are empty variables, which it does not take for absent, and switches such as `1`, of which it knows
    only `true` and `false`.
    """
    environment = with_shard_in_path(programs.environment)
    for option in OPTIONS:
        given = environment.pop(option.variable, None) if not option.own else None
        value = choices.values[option.name]
        if passes_by(option):
            if value is not None:
                environment[str(option.shard_variable)] = str(value)
        elif given and isinstance(value, bool):
            environment[option.variable] = "true" if value else "false"
        elif given and option.panel is not Panel.SHAPE:
            environment[option.variable] = stock_value(option, given)
    if parameters.chips is not None:
        environment["HF_NUM_CHIPS"] = str(parameters.chips)
    if "log_level" in choices.sources:
        level = choices.values["log_level"]
        environment["LOG_LEVEL"] = LEVELS.get(level.upper(), level.lower() if level.isalpha() else level)
    return environment


def with_shard_in_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The launcher looks for the shard in PATH: the environment of this Python counts as active, if it is not."""
    path = environment.get("PATH", os.defpath)
    beside = Path(sys.executable).with_name(EXECUTABLE)
    if shutil.which(EXECUTABLE, path=path) is not None or not beside.is_file():
        return dict(environment)
    return {**environment, "PATH": f"{beside.parent}{os.pathsep}{path}"}


def refuse_what_it_does_not_know(values: Mapping[str, Any]) -> None:
    """Raises InvalidSettingError for a value that only the embedded launcher takes."""
    if values["served_model_name"] is not None:
        raise InvalidSettingError(
            f"`--served-model-name {values['served_model_name']}` is not known to the stock router. Leave it out, or "
            "use `--embedded`"
        )
    if values["dtype"] is Dtype.FLOAT32:
        raise InvalidSettingError(
            "`--dtype float32` is not known to the stock launcher. Leave it out on a CPU, where float32 is the "
            "default, or use `--embedded`"
        )
