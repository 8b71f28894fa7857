"""Tools: which of them the model may call, how it learns of them, and the grammar of a call (section 6.3)."""

from typing import Any, Literal

from pydantic import AliasChoices, Field

from tpu_tgi.router.chat.messages import json_text
from tpu_tgi.router.errors import ToolError
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


NO_TOOL = "no_tool"
"""The function that the model calls in order to answer with text."""

NO_TOOL_TOOL = Tool(
    type="function",
    function=FunctionDefinition(
        name=NO_TOOL,
        description="Open ended response with no specific tool selected",
        parameters={"type": "object"},
    ),
)

# The stock router's words: other ones would give other answers.
DEFAULT_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments "
    "that best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of "
    "argument name and its value}.Do not use variables.\n"
)


def choose_tools(tools: list[Tool], choice: ToolChoice | None) -> list[Tool]:
    """The tools that may be called; empty if none may. Raises ToolError for a name that no tool has."""
    match choice:
        case None | "auto":
            return [*tools, NO_TOOL_TOOL]
        case "none":
            return []
        case "required":
            return tools
        case NamedChoice(function=function):
            name = function.name
        case str(name):
            pass
    for tool in tools:
        if tool.function.name == name:
            return [tool]
    raise ToolError(f"Tool with name {name} not found")


def shown_tools(tools: list[Tool]) -> list[dict[str, Any]]:
    """The tools as a template sees them: the schema of the parameters is a text."""
    return [
        {
            "type": tool.type,
            "function": {
                "description": tool.function.description,
                "name": tool.function.name,
                "arguments": json_text(tool.function.parameters),
            },
        }
        for tool in tools
    ]


def tool_text(tools: list[Tool], tool_prompt: str | None, template_shows_tools: bool) -> str:
    """What is appended to the last message; with the tools unless the template writes them."""
    listed = "" if template_shows_tools else f"{json_text(shown_tools(tools))}\n"
    return f"\n---\n{listed}{tool_prompt or DEFAULT_TOOL_PROMPT}"


def call_schema(tools: list[Tool]) -> dict[str, Any]:
    """The JSON schema of a call to one of the tools: `{"function": {"_name": NAME, ARGUMENTS...}}`."""
    names = [tool.function.name for tool in tools]
    return {
        "$functions": {tool.function.name: function_schema(tool.function) for tool in tools},
        "type": "object",
        "properties": {"function": {"anyOf": [{"$ref": f"#/$functions/{name}"} for name in names]}},
        "required": ["function"],
        "additionalProperties": False,
    }


def function_schema(function: FunctionDefinition) -> dict[str, Any]:
    """The arguments beside the name. They are in the order of the tool's schema."""
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False}
    properties: dict[str, Any] = {"_name": {"type": "string", "const": function.name}}
    required = ["_name"]
    arguments = function.parameters
    if isinstance(arguments, dict):
        if isinstance(given := arguments.get("properties"), dict):
            properties |= given
        if isinstance(given := arguments.get("required"), list):
            required += given
        # Definitions move with the arguments, and the references to them too.
        for key in ("$defs", "definitions"):
            if key in arguments:
                schema[key] = moved(arguments[key], function.name)
        properties = moved(properties, function.name)
    return schema | {"properties": properties, "required": required}


def moved(part: Any, name: str) -> Any:
    """A part of a tool's schema, with references that are right where the schema stands in `call_schema`."""
    if isinstance(part, list):
        return [moved(item, name) for item in part]
    if isinstance(part, dict):
        return {
            key: f"#/$functions/{name}{value[1:]}"
            if key == "$ref" and isinstance(value, str) and value.startswith("#/")
            else moved(value, name)
            for key, value in part.items()
        }
    return part
