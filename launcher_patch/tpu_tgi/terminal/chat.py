"""`tpu-tgi chat`: a conversation in the terminal with a service that runs."""

import contextlib
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tpu_tgi.terminal.client import Service, ServiceError, WarmingUp
from tpu_tgi.terminal.progress import WarmUpBar

# Where `tpu-tgi demo` and `make serve` listen, and where `tpu-tgi` does.
USUAL_ADDRESSES = ("http://127.0.0.1:8080", "http://127.0.0.1:3000")

LOOK_SECONDS = 0.5

HELP = "Ctrl-C stops an answer, Ctrl-D ends. /new begins anew, /system TEXT tells the model how to behave."

Message = dict[str, str]


class Chat:
    """The conversation so far.

    Args:
        parameters: what every request asks for beside its messages.
    """

    def __init__(
        self, console: Console, service: Service, system: str | None, parameters: dict[str, Any]
    ) -> None:
        self._console = console
        self._service = service
        self._parameters = parameters
        self._system = system
        self._messages: list[Message] = []

    def take(self, line: str) -> None:
        """A line that somebody wrote: a command, or a message that is answered."""
        command, _, rest = line.partition(" ")
        if command == "/new":
            self._messages = []
        elif command == "/system":
            self._system = rest.strip() or None
            self._messages = []
        elif command == "/help":
            self._console.print(HELP, style="dim")
        else:
            self._answer(line)

    def _answer(self, text: str) -> None:
        """Prints the answer as it comes. What was not answered is not part of the conversation."""
        question = {"role": "user", "content": text}
        system = [{"role": "system", "content": self._system}] if self._system else []
        body = {"model": "tgi", "messages": [*system, *self._messages, question], **self._parameters}
        begin, said, tokens = time.perf_counter(), "", None
        try:
            with contextlib.closing(self._service.answer(body)) as pieces:
                for piece in pieces:
                    # Many models begin with a space.
                    text = piece.text if said else piece.text.lstrip()
                    said += text
                    self._console.out(text, end="", highlight=False)
                    tokens = piece.tokens or tokens
        except KeyboardInterrupt:
            self._console.out(" …", end="")
        except ServiceError as error:
            if said:
                self._console.out("")
            self._console.print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
            return
        self._console.out("")
        self._messages += [question, {"role": "assistant", "content": said}]
        if tokens and self._console.is_terminal:
            rate = tokens / max(time.perf_counter() - begin, 1e-9)
            self._console.print(f"{tokens} tokens, {rate:.1f} per second", style="dim")


def find_service(url: str | None, api_key: str | None) -> Service:
    """The service at `url`, or the first one that answers where it usually is. Raises ServiceError."""
    if url is not None:
        service = Service(url if "://" in url else f"http://{url}", api_key)
        service.state()
        return service
    for address in USUAL_ADDRESSES:
        service = Service(address, api_key)
        with contextlib.suppress(ServiceError):
            service.state()
            return service
        service.close()
    raise ServiceError(
        f"Nothing answers at {' or '.join(USUAL_ADDRESSES)}: name the address, as in "
        "`tpu-tgi chat http://127.0.0.1:8081`, or start a service with `tpu-tgi demo`"
    )


def wait_until_ready(console: Console, service: Service) -> str:
    """The name of the model, as soon as it can be used."""
    state = service.state()
    if isinstance(state, str):
        return state
    with WarmUpBar(console) as bar:
        while isinstance(state, WarmingUp):
            bar.show(state.status, state.done, state.total, state.seconds_left)
            time.sleep(LOOK_SECONDS)
            state = service.state()
    return state


def chat(
    url: Annotated[
        str | None, typer.Argument(help="Address of the service. Without it, ports 8080 and 3000 are tried.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="API_KEY", help="API key of the service.")] = None,
    system: Annotated[
        str | None, typer.Option(help="System message, which tells the model how to behave.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum length of an answer, in tokens.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0 always takes the most probable token.")
    ] = 0.7,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed; the same seed gives the same answers.")
    ] = None,
) -> None:
    """Chat with a running service. Lines from a pipe are answered one after the other."""
    console = Console(highlight=False)
    given = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    parameters = {name: value for name, value in given.items() if value is not None}
    try:
        service = find_service(url, api_key)
        model = wait_until_ready(console, service)
    except ServiceError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    with contextlib.closing(service):
        talk(console, Chat(console, service, system, parameters), model)


def talk(console: Console, conversation: Chat, model: str) -> None:
    """Until the input ends, or somebody writes /quit."""
    interactive = sys.stdin.isatty()
    if interactive:
        # With it, the line can be edited, and arrows bring back earlier ones.
        import readline  # noqa: F401

        console.print(f"[bold]{escape(model)}[/bold]")
        console.print(HELP, style="dim")
    while True:
        try:
            line = input("\n> " if interactive else "").strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            console.print()
            continue
        if line == "/quit":
            break
        if line:
            conversation.take(line)
