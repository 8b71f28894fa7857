"""The launcher and router in Python, for machines without the stock programs."""

import asyncio
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from loguru import logger

from tpu_tgi.addresses import SOCKETS, temporary_directories
from tpu_tgi.dry_run import command_section
from tpu_tgi.embedded.launcher import launch
from tpu_tgi.embedded.settings import LauncherSettings, launcher_settings
from tpu_tgi.embedded.shard_command import added_variables, serve_arguments
from tpu_tgi.embedded.shard_process import EXECUTABLE
from tpu_tgi.logs import configure, log_remarks
from tpu_tgi.options.command import Choices
from tpu_tgi.parameters.derivation import Parameters

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Stands for the directory that is made at the start.
PRIVATE = f"{temporary_directories()[0]}/{SOCKETS}PRIVATE/shard"


@dataclass(frozen=True)
class EmbeddedLaunch:
    """The service as this process."""

    settings: LauncherSettings
    json_output: bool

    @classmethod
    def prepare(cls, choices: Choices, parameters: Parameters) -> Self:
        """Raises InvalidSettingError for an option that cannot be served."""
        return cls(launcher_settings(choices, parameters), choices.values["json_output"])

    def describe(self) -> list[str]:
        return command_section(
            f"Embedded launcher and router on http://{self.settings.hostname}:{self.settings.port}, and the shard",
            added_variables(self.settings),
            [
                EXECUTABLE,
                *serve_arguments(
                    self.settings, self.settings.router.model_id, self.settings.shard_uds_path or PRIVATE
                ),
            ],
        )

    def start(self, remarks: tuple[str, ...]) -> NoReturn:
        configure(self.settings.logger_level, self.json_output)
        log_remarks((*remarks, *missing_libtpu(Path("/dev"))))
        if self.settings.hostname not in LOOPBACK and not self.settings.router.keys:
            logger.warning(
                "Everybody who reaches `--hostname {}` may use this service: give `--api-key KEY`, or "
                "`--hostname 127.0.0.1`",
                self.settings.hostname,
            )
        sys.exit(asyncio.run(launch(self.settings)))


def missing_libtpu(devices: Path) -> list[str]:
    """What to say where the machine has a TPU that nothing here can use. `devices`: /dev."""
    chips = [*devices.glob("accel*"), *devices.glob("vfio/[0-9]*")]
    if not chips or importlib.util.find_spec("libtpu") is not None:
        return []
    return [
        f"{chips[0]} looks like a TPU, but libtpu is not installed and the CPU is used: pip install 'tpu-tgi[tpu]'"
    ]
