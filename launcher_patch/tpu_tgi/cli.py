"""The command `tpu-tgi`: two numbers and the stock launcher's options -> the stock programs, or the embedded ones."""

import os
import sys
from importlib.metadata import version
from typing import Any, NoReturn, Protocol

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperCommand

from text_generation_server.errors import InvalidSettingError
from text_generation_server.wire.limits import WireVersion
from tpu_tgi.demo import demo_arguments
from tpu_tgi.dry_run import memory_section, numbers_section
from tpu_tgi.embedded.launch import EmbeddedLaunch
from tpu_tgi.options.command import Choices, command
from tpu_tgi.options.completion import COMPLETE, asked_of, words_to_complete
from tpu_tgi.options.numbers import given_numbers
from tpu_tgi.parameters.derivation import derive
from tpu_tgi.parameters.model import Checkpoint
from tpu_tgi.plan.command import plan
from tpu_tgi.stock.help import stock_help
from tpu_tgi.stock.launch import StockLaunch
from tpu_tgi.stock.programs import StockPrograms
from tpu_tgi.terminal.chat import chat

PROGRAM = "tpu-tgi"

# First words that are not a model.
COMMANDS = ("chat", "demo", "plan")


class Launch(Protocol):
    """A service that is ready to be started."""

    def describe(self) -> list[str]:
        """What would be started, for `--dry-run`."""
        ...

    def start(self, remarks: tuple[str, ...]) -> NoReturn:
        """Logs the remarks, and becomes the service."""
        ...


class Command(TyperCommand):
    """`tpu-tgi MODEL` is short for `--model-id MODEL`; `--help` goes on with the stock launcher's, if there is one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["--version"]:
            typer.echo(f"tpu-tgi {version('tpu-tgi')}")
            raise typer.Exit
        # Only the first word: a later one may be the value of an option that the stock launcher knows.
        if args and not args[0].startswith("-"):
            if "--model-id" in args:
                typer.echo(
                    f"Error: `{args[0]}` and `--model-id` both name a model: leave one of them out", err=True
                )
                raise typer.Exit(1)
            args = ["--model-id", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Options, and the other commands in the place of the first word."""
        items = super().shell_complete(ctx, incomplete)
        if len(words_to_complete(os.environ)) == 1:
            items += [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)]
        return items

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        typer.echo(stock_help(os.environ))


def main(choices: Choices) -> None:
    """Serve a model over HTTP: `tpu-tgi MODEL`, or `tpu-tgi --model-id MODEL`.

    Other commands: `tpu-tgi demo` downloads and serves a small model, `tpu-tgi chat` is a chat with a running service,
    `tpu-tgi plan` computes what fits on a TPU, `tpu-tgi --version` prints the version.

    The variables HF_BATCH_SIZE (number of requests that run at once) and HF_SEQUENCE_LENGTH (maximum length of a
    prompt and its answer together, in tokens) are enough to size the service; without them, defaults are used. Every
    option is an environment variable too, in capitals. If TGI's own launcher and router are in PATH, they are started,
    and get all options that are not listed here; otherwise the embedded launcher and router in Python are used.
    """
    try:
        run(choices)
    except InvalidSettingError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


def run(choices: Choices) -> None:
    """Becomes the service, or prints what it would be. Raises InvalidSettingError."""
    values = choices.values
    programs = None if values["embedded"] else StockPrograms.find(choices.environment)
    given = given_numbers(choices)
    checkpoint = Checkpoint.find(values["model_id"], values["revision"], choices.shard_environment)
    parameters = derive(
        given,
        positions=checkpoint.positions if checkpoint else None,
        wire=programs.wire if programs else WireVersion.V3,
        needs_lengths=programs is not None and programs.router_needs_lengths,
    )
    launch: Launch
    if programs is not None:
        launch = StockLaunch.prepare(programs, choices, parameters)
    else:
        launch = EmbeddedLaunch.prepare(choices, parameters)
    if not values["dry_run"]:
        launch.start(parameters.remarks)
    lines = numbers_section(parameters, given) + memory_section(
        parameters, checkpoint, values["dtype"], values["quantize"], values["kv_cache_dtype"]
    )
    typer.echo("\n".join(lines + launch.describe()))


def main_of_demo(choices: Choices) -> None:
    """Serve SmolLM2-135M-Instruct, a small model to try the service with, on http://127.0.0.1:8080.

    The first call downloads the model (92 MB) to ~/.cache/tpu-tgi, which needs the extra `demo` of this package. All
    options of `tpu-tgi` may be given.
    """
    main(choices)


serve = command(main, os.environ, Command, "[MODEL] [OPTIONS]")
serve_demo = command(main_of_demo, os.environ, Command, "[OPTIONS]")
talk = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
talk.command()(chat)
ahead = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ahead.command()(plan)


def app() -> None:
    """`tpu-tgi`: `chat`, `demo` and `plan` as its first word are commands of their own, all else serves a model."""
    if COMPLETE in os.environ:
        complete()
        return
    words = sys.argv[1:]
    match words[:1]:
        case ["chat"]:
            talk(words[1:], prog_name=f"{PROGRAM} chat")
        case ["plan"]:
            ahead(words[1:], prog_name=f"{PROGRAM} plan")
        case ["demo"]:
            try:
                words = words[1:] if "--help" in words else demo_arguments(words[1:], os.environ)
            except InvalidSettingError as error:
                typer.echo(f"Error: {error}", err=True)
                sys.exit(1)
            serve_demo(words, prog_name=f"{PROGRAM} demo")
        case _:
            serve(words, prog_name=PROGRAM)


def complete() -> None:
    """Prints what a shell may put in the place of the last word."""
    words = words_to_complete(os.environ)
    asked = serve
    if len(words) > 1 and words[0] in COMMANDS:
        # typer knows the shells once it has made a command that offers to install completion.
        typer.main.get_command(serve)
        os.environ |= asked_of(PROGRAM, words[1:])
        asked = {"chat": talk, "plan": ahead}.get(words[0], serve)
    asked(prog_name=PROGRAM)
