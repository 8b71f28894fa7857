"""Grammars of requests, checked and turned into the regular expressions that a shard receives.

The shard never sees a JSON schema: the stock router compiles it (HTTP reference, section 3.5), with the same
library as here.
"""

from typing import Annotated, Any, Literal

import jsonschema_rs
import pydantic_core
from outlines_core.json_schema import build_regex_from_schema
from pydantic import Field

from tpu_tgi.router.errors import ValidationError
from tpu_tgi.router.request_body import RequestBody

# Schemas are checked by the rules of this draft, whichever they name: what they name might be an address, and
# would be fetched.
DRAFT = "https://json-schema.org/draft/2020-12/schema"

# The library follows references this deep. Wide schemas that refer to each other, and nested ones without
# required properties, make regular expressions that would fill the memory: 14 levels of two properties are 200 MB.
REFERENCE_DEPTH = 3
MAX_PARTS = 100_000


class NamedSchema(RequestBody):
    """A JSON schema with a name, which has no effect."""

    name: str | None = None
    definition: Any = Field(alias="schema")


class JsonGrammar(RequestBody):
    """The text must be JSON that fits a schema, which is given as an object or as a string that holds one."""

    type: Literal["json", "json_object"]
    value: Any


class JsonSchemaGrammar(RequestBody):
    """The same, where the schema has a name."""

    type: Literal["json_schema"]
    value: NamedSchema


class RegexGrammar(RequestBody):
    """The whole text must match a regular expression. The shard judges whether it is one."""

    type: Literal["regex"]
    value: str


Grammar = Annotated[JsonGrammar | JsonSchemaGrammar | RegexGrammar, Field(discriminator="type")]


def to_regex(grammar: JsonGrammar | JsonSchemaGrammar | RegexGrammar) -> str:
    """The regular expression that the shard is given. Raises ValidationError with the stock router's texts."""
    match grammar:
        case RegexGrammar():
            return grammar.value
        case JsonSchemaGrammar():
            return schema_to_regex(grammar.value.definition)
        case JsonGrammar(value=str(text)):
            try:
                return schema_to_regex(pydantic_core.from_json(text, allow_inf_nan=False))
            except ValueError as error:
                raise ValidationError(f"grammar is not valid: {error}") from error
        case JsonGrammar(value=dict(schema)):
            return schema_to_regex(schema)
        case _:
            raise ValidationError("grammar is not supported")


def schema_to_regex(schema: Any) -> str:
    """Properties come in the order in which the client wrote them. Raises ValidationError."""
    checked = schema | {"$schema": DRAFT} if isinstance(schema, dict) else schema
    try:
        jsonschema_rs.meta.validate(checked)
    except jsonschema_rs.ValidationError as error:
        raise ValidationError(f"grammar is not valid: {error.message}") from error
    if not isinstance(schema, dict) or "properties" not in schema:
        raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")
    if (size := RegexSize(schema).of(schema)) > MAX_PARTS:
        raise ValidationError(
            f"grammar is not valid: its regular expression would have {size} parts, more than {MAX_PARTS}. "
            "Fewer optional properties, `required` ones, or less nesting would work"
        )
    try:
        return str(build_regex_from_schema(pydantic_core.to_json(schema).decode()))
    except ValueError as error:
        raise ValidationError(f"cannot compile regex from schema: {error}") from error


class RegexSize:
    """Estimates the size of the regular expression that the library makes of a schema, in parts of the schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._known: dict[tuple[int, int], int] = {}

    def of(self, part: Any, depth: int = REFERENCE_DEPTH) -> int:
        """`depth`: how many references are still followed from here on."""
        if not isinstance(part, dict | list):
            return 1
        key = (id(part), depth)
        if key not in self._known:
            # What refers to itself is not counted again.
            self._known[key] = 1
            self._known[key] = self._list(part, depth) if isinstance(part, list) else self._dict(part, depth)
        return self._known[key]

    def _list(self, items: list[Any], depth: int) -> int:
        size = 1
        for item in items:
            size += self.of(item, depth)
        return size

    def _dict(self, part: dict[str, Any], depth: int) -> int:
        size = 1
        for key, value in part.items():
            # Definitions count where they are referred to.
            if key in ("$defs", "definitions"):
                continue
            repeated = 1
            if key == "properties" and isinstance(value, dict) and not part.get("required"):
                # Any of them may be the first one: the library writes an alternative for each.
                repeated = len(value)
            size += repeated * self.of(value, depth)
        if depth > 0 and isinstance(reference := part.get("$ref"), str):
            size += self.of(resolve(reference, self._schema), depth - 1)
        return size


def resolve(reference: str, schema: dict[str, Any]) -> Any:
    """What a reference like `#/$defs/name` points to; None if it points nowhere, which the library reports."""
    target: Any = schema
    for key in reference.removeprefix("#").split("/")[1:]:
        target = target.get(key) if isinstance(target, dict) else None
    return target
