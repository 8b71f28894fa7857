"""This process becomes the stock launcher, so signals and exit codes are its own."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from loguru import logger

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.dry_run import command_section
from tpu_tgi.logs import configure, log_remarks
from tpu_tgi.options.command import Choices
from tpu_tgi.options.key_file import read_keys
from tpu_tgi.parameters.derivation import Parameters
from tpu_tgi.stock.command import launcher_command, launcher_environment, refuse_what_it_does_not_know
from tpu_tgi.stock.page import PageProcess
from tpu_tgi.stock.ports import check_ports
from tpu_tgi.stock.programs import StockPrograms


@dataclass(frozen=True)
class StockLaunch:
    """A command line that is ready to be run.

    Attributes:
        command: the first word is the launcher's path.
        environment: complete.
        page: the page for people, if somebody wants it.
        changed: the variables in which it differs from this process's; empty for those that were taken out.
    """

    programs: StockPrograms
    command: list[str]
    environment: Mapping[str, str]
    changed: Mapping[str, str]
    json_output: bool
    page: PageProcess | None = None

    @classmethod
    def prepare(cls, programs: StockPrograms, choices: Choices, parameters: Parameters) -> Self:
        """Raises InvalidSettingError for what the launcher would find wrong after the model was loaded, or not say."""
        refuse_what_it_does_not_know(choices.values)
        keys = read_keys(choices.values["api_key_file"])
        if len(keys) > 1:
            raise InvalidSettingError(
                f"`--api-key-file` has {len(keys)} keys and the stock router takes one: give one, or use `--embedded`"
            )
        if not os.access(".", os.W_OK):
            raise InvalidSettingError(
                f"The stock router keeps a copy of the tokenizer in ./out, and {Path.cwd()} cannot be written: "
                "start in another directory, for example /tmp"
            )
        prometheus_port = check_ports(choices, programs.launcher_version)
        environment = launcher_environment(programs, choices, parameters)
        if keys:
            environment["API_KEY"] = keys[0]
        key_given = choices.values["api_key"] is not None
        before = choices.environment
        names = {*before, *environment}
        return cls(
            programs,
            launcher_command(programs, choices, parameters, prometheus_port),
            environment,
            {name: environment.get(name, "") for name in names if environment.get(name) != before.get(name)},
            choices.values["json_output"],
            PageProcess.prepare(
                choices.values, parameters.batch_size, needs_key="API_KEY" in environment or key_given
            ),
        )

    def describe(self) -> list[str]:
        shown = {
            name: "..." if name == "API_KEY" and value else value for name, value in self.changed.items()
        }
        lines = command_section(str(self.programs), shown, without_key(self.command))
        return lines if self.page is None else lines + command_section("The page", {}, self.page.command)

    def start(self, remarks: tuple[str, ...]) -> NoReturn:
        configure("INFO", self.json_output)
        log_remarks(remarks)
        logger.info("Starting {}", self.programs)
        sys.stdout.flush()
        if self.page is not None:
            self.page.start()
        os.execve(self.command[0], self.command, dict(self.environment))


def without_key(command: list[str]) -> list[str]:
    """The command as it may be shown: a dry run is often part of a log."""
    return [
        "..." if before == "--api-key" else word
        for before, word in zip(["", *command], command, strict=False)
    ]
