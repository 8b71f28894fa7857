"""Reads the tool call that a model wrote under the grammar of `tools.call_schema`."""

import json
import re
from dataclasses import dataclass
from typing import Any

import pydantic_core

from tpu_tgi.router.chat.messages import json_text
from tpu_tgi.router.errors import ToolError

# As the grammar has it: the name comes first.
OPENING = re.compile(r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Call:
    """A function and the text of its arguments, a JSON object."""

    name: str
    arguments: str


def parse_call(text: str) -> Call:
    """Raises ToolError for a text that is no call, as one is that was cut off."""
    try:
        function = function_of(pydantic_core.from_json(text, allow_inf_nan=False))
    except ValueError as error:
        raise ToolError(
            f"Failed to parse generated text: {error} {json.dumps(text, ensure_ascii=False)}"
        ) from error
    arguments = {key: value for key, value in function.items() if key != "_name"}
    return Call(function["_name"], json_text(arguments))


def function_of(answer: Any) -> dict[str, Any]:
    """Raises ValueError."""
    if not isinstance(answer, dict) or not isinstance(function := answer.get("function"), dict):
        raise ValueError("missing field `function`")
    if not isinstance(function.get("_name"), str):
        raise ValueError("missing field `_name`")
    return function


class CallInPieces:
    """The same, while it is being written.

    Attributes:
        name: None until it is known.
        complete: the call is over; what follows does not belong to it.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.complete = False
        self._text = ""
        self._arguments_begin = 0
        self._sent = 0

    def push(self, text: str) -> str | None:
        """What these words add to the text of the arguments; None before the name is known, and after the end."""
        if self.complete:
            return None
        self._text += text
        if self.name is None:
            opening = OPENING.match(self._text)
            if opening is None:
                return None
            self.name = json.loads(opening[1])
            self._arguments_begin = opening.end()
        self.complete = is_call(self._text)
        arguments = self._arguments()
        added = arguments[self._sent :]
        self._sent = len(arguments)
        return added

    def _arguments(self) -> str:
        """As far as they go: without the comma after the name, and without the brace that ends the whole text."""
        rest = self._text[self._arguments_begin :].lstrip().removeprefix(",").lstrip()
        return "{" + (rest.rstrip().removesuffix("}") if self.complete else rest)


def is_call(text: str) -> bool:
    if not text.rstrip().endswith("}"):
        return False
    try:
        function_of(pydantic_core.from_json(text))
    except ValueError:
        return False
    return True
