"""Tools and the choice among them, as a chat request has them."""

from typing import Any, Literal

from pydantic import AliasChoices, Field

from tpu_tgi.router.http.request_body import RequestBody

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class FunctionDefinition(RequestBody):
    """A function that the model may call. `parameters`: a JSON schema of an object."""

    description: str | None = None
    name: str
    parameters: Any = Field(default=NO_PARAMETERS, validation_alias=AliasChoices("parameters", "arguments"))


class Tool(RequestBody):
    """A tool; functions are the only kind."""

    type: str
    function: FunctionDefinition


class FunctionName(RequestBody):
    name: str


class NamedChoice(RequestBody):
    """The one function that must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = NamedChoice | str
"""`auto`, `none`, `required`, or a function, by its name or as an object."""
