"""One option: everything that the command line, `--help` and the documentation say of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer


class Panel(StrEnum):
    """The groups of `--help`, in its order."""

    MODEL = "Model"
    SHAPE = "Batch size and sequence length: give the first two, the others follow"
    ADMISSION = "Admission of requests"
    REQUESTS = "What a request may ask for"
    SERVER = "Server"
    LAUNCHER = "This launcher"


@dataclass(frozen=True)
class Option:
    """An option that is also an environment variable: `--max-batch-size`, MAX_BATCH_SIZE.

    Attributes:
        kind: the type of its value; an enumeration for a choice, list[str] for one that may be repeated.
        required: there is no service without it.
        unit: of the value, or what it is, in `--help`.
        default: None where nothing is passed on unless it is given.
        otherwise: what that means.
        least, most: the smallest and the largest number that is taken.
        own: it is for `tpu-tgi` alone, and the stock launcher does not know it.
        stock_only: the embedded launcher has no use for it.
        shard_variable: the variable in which the shard reads it, where that is not left to its own command line.
        short: a short spelling.
    """

    flag: str
    panel: Panel
    kind: Any
    help: str
    required: bool = False
    unit: str = ""
    default: Any = None
    otherwise: str = ""
    least: int | None = None
    most: int | None = None
    own: bool = False
    stock_only: bool = False
    shard_variable: str | None = None
    short: str | None = None

    @property
    def name(self) -> str:
        """`max_batch_size`: of its value in Python."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """`MAX_BATCH_SIZE`: in the environment."""
        return self.name.upper()

    @property
    def default_text(self) -> str:
        """As `--help` and the documentation have it."""
        return self.otherwise or ("" if self.default is None else str(self.default))

    @property
    def annotation(self) -> Any:
        """For a parameter of a typer command."""
        declared = typer.Option(
            self.flag,
            *filter(None, [self.short]),
            envvar=self.variable,
            # The help says once that every option is a variable too; the names of both do not fit 80 columns.
            show_envvar=False,
            help=self.help,
            metavar=self.unit,
            min=self.least,
            max=self.most,
            show_default=self.otherwise or self.default not in (None, False),
            rich_help_panel=self.panel.value,
        )
        kind = self.kind if self.required or self.default is not None else self.kind | None
        return Annotated[kind, declared]
