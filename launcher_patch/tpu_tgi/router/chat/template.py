"""Renders chat templates with the stock router's engine, minijinja, and its settings (HTTP reference, 6.2)."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import minijinja

from tpu_tgi.router.chat.messages import TemplateMessage
from tpu_tgi.router.chat.template_source import TemplateSource
from tpu_tgi.router.errors import TemplateError
from tpu_tgi.router.metrics import Metrics

# A template is a program of the model's publisher. With this much fuel it ends within seconds whatever it does;
# a conversation of a thousand messages needs a hundredth.
FUEL = 20_000_000

NAME = "<string>"

# What templates say, and what the engine understands instead: the stock router's replacements.
REPLACEMENTS = {
    "messages[0]['content'][0]['text']": "messages[0]['content']",
    "[::-1]": "|reverse",
    "{% generation %}": "",
    "{% endgeneration %}": "",
}

# In HTML these begin something; the engine of the stock router escapes them.
ESCAPED = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&'"})


class RaisedByTemplateError(Exception):
    """The template called `raise_exception`."""


class ChatTemplate:
    """The template of a model. One that is missing or has an error is reported to whoever wants to chat.

    Attributes:
        shows_tools: whether the template writes the tools into the prompt itself.
    """

    def __init__(self, source: TemplateSource, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tokens = {"bos_token": source.bos_token, "eos_token": source.eos_token}
        self._environment = minijinja.Environment(
            filters={"tojson": to_json},
            globals={"raise_exception": raise_exception, "strftime_now": strftime_now},
            fuel=FUEL,
            debug=False,
        )
        # The environment must not be used by two threads at once: it holds a lock while it calls Python.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chat-template")
        self._error: str | None = None
        self.shows_tools = False
        if source.text is None:
            self._error = "template not found"
            return
        try:
            self._environment.add_template(NAME, adapted(source.text))
            variables = self._environment.undeclared_variables_in_template(NAME, nested=True)
        except minijinja.TemplateError as error:
            self._error = first_line(error)
            return
        self.shows_tools = "tools" in variables

    async def render(self, messages: list[TemplateMessage], tools: list[dict[str, Any]] | None) -> str:
        """The prompt. If the assistant spoke last, it ends with those words, to be continued.

        Raises TemplateError.
        """
        if self._error is not None:
            raise TemplateError(self._error)
        loop = asyncio.get_running_loop()
        try:
            prompt = await loop.run_in_executor(self._thread, self._render, messages, tools)
        except TemplateError:
            self._metrics.failed("template")
            raise
        if messages and messages[-1]["role"] == "assistant":
            content = messages[-1]["content"]
            before, found, _ = prompt.rpartition(content) if content else (prompt, "", "")
            return (before + found).rstrip() if found or not content else prompt
        return prompt

    def _render(self, messages: list[TemplateMessage], tools: list[dict[str, Any]] | None) -> str:
        try:
            return self._environment.render_template(
                NAME,
                messages=sorted_keys(messages),
                tools=sorted_keys(tools),
                add_generation_prompt=True,
                **self._tokens,
            )
        except RaisedByTemplateError as error:
            # The engine does not tell where a function was called; most templates are one line.
            raise TemplateError(f"syntax error: {error} (in {NAME}:1)") from error
        except minijinja.TemplateError as error:
            raise TemplateError(first_line(error)) from error
        except (TypeError, ValueError, RecursionError) as error:
            # Of a function that the template called with what it does not take.
            raise TemplateError(f"invalid operation: {error} (in {NAME}:1)") from error

    def close(self) -> None:
        self._thread.shutdown(wait=False)


def adapted(template: str) -> str:
    for said, understood in REPLACEMENTS.items():
        template = template.replace(said, understood)
    return template


def first_line(error: minijinja.TemplateError) -> str:
    """Kind, detail and place; what follows quotes the template."""
    return str(error).splitlines()[0]


def sorted_keys(value: Any) -> Any:
    """In the stock router's engine the keys of every object are in alphabetical order."""
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sorted_keys(item) for item in value]
    return value


def to_json(
    value: Any,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: list[str] | tuple[str, str] | None = None,
    sort_keys: bool = True,
) -> str:
    """The filter `tojson`: compact unless indented, and safe within HTML; the keywords are those of transformers."""
    between = (",", ":" if indent is None else ": ") if separators is None else separators
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=(between[0], between[1]),
        sort_keys=sort_keys,
    )
    return minijinja.safe(text.translate(ESCAPED))


def raise_exception(message: str) -> None:
    raise RaisedByTemplateError(message)


def strftime_now(pattern: str) -> str:
    """Local time."""
    return datetime.now().strftime(pattern)
