"""The options as a typer command, and what was given when it is called."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from tpu_tgi.options.config_file import CONFIG
from tpu_tgi.options.option import Option
from tpu_tgi.options.table import OPTIONS
from tpu_tgi.parameters.given import Number


@dataclass(frozen=True)
class Choices:
    """What somebody wrote on the command line and in the environment.

    Attributes:
        values: of every option, by name; its default if it was not given.
        sources: for each option that was given, `--max-batch-size` or `MAX_BATCH_SIZE`.
        rest: words that are no option of ours, in their order.
        environment: all variables.
    """

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    rest: tuple[str, ...]
    environment: Mapping[str, str]

    def number(self, name: str) -> Number | None:
        """The number that an option was given; None if it was not."""
        return Number(self.sources[name], self.values[name]) if name in self.sources else None

    @property
    def shard_variables(self) -> dict[str, str]:
        """The options that the shard reads from its environment; a switch is 1."""
        return {
            option.shard_variable: str(1 if value is True else value)
            for option in OPTIONS
            if option.shard_variable and (value := self.values[option.name]) not in (None, False)
        }

    @property
    def shard_environment(self) -> dict[str, str]:
        """The variables that say where the shard finds its files."""
        return {**self.environment, **self.shard_variables}


def command(
    run: Callable[[Choices], None], environment: Mapping[str, str], cls: type[TyperCommand], usage: str
) -> typer.Typer:
    """A typer application with one command that calls `run`; its options are those of the table, `usage` stands in
    front of them."""

    def main(context: typer.Context, **values: Any) -> None:
        sources = {
            option.name: source
            for option in OPTIONS
            if (source := source_of(option, context)) and values[option.name] is not None
        }
        run(Choices(values, sources, tuple(context.args), environment))

    # typer reads the options of a command from the signature of its function.
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
    for option in OPTIONS:
        parameters.append(
            inspect.Parameter(
                option.name,
                keyword,
                default=inspect.Parameter.empty if option.required else option.default,
                annotation=option.annotation,
            )
        )
    parameters.append(inspect.Parameter("config", keyword, default=None, annotation=CONFIG))
    app = typer.Typer(pretty_exceptions_enable=False)
    main.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    # A line of the help ends where its line in the source ends, unless the paragraph is one line.
    paragraphs = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    app.command(
        cls=cls,
        options_metavar=usage,
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(main)
    return app


def source_of(option: Option, context: typer.Context) -> str | None:
    """In which words an option was given; None if it was not."""
    source = context.get_parameter_source(option.name)
    name = source.name if source is not None else "DEFAULT"
    return {"COMMANDLINE": option.flag, "ENVIRONMENT": option.variable, "DEFAULT_MAP": option.flag}.get(name)
