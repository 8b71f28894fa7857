"""Grammars of requests, checked as the stock router checks them, in the form that a shard receives.

The stock router compiles JSON schemas to regular expressions. Here the shard gets the schema itself: it compiles it in
a process with limits of time and memory, and keeps to more of it.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jsonschema_rs
import pydantic_core
from pydantic import Field

from tpu_tgi.router.errors import ValidationError
from tpu_tgi.router.http.request_body import RequestBody

# Schemas are checked by the rules of this draft, whichever they name: what they name might be an address, and
# would be fetched.
DRAFT = "https://json-schema.org/draft/2020-12/schema"

# Characters of a message about a schema, which would otherwise quote the whole of it.
LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class ShardGrammar:
    """What the whole answer must match: a JSON schema or a regular expression."""

    kind: Literal["json", "regex"]
    text: str


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


def for_shard(grammar: JsonGrammar | JsonSchemaGrammar | RegexGrammar) -> ShardGrammar:
    """What the shard is given. Raises ValidationError with the stock router's texts."""
    match grammar:
        case RegexGrammar():
            return ShardGrammar("regex", grammar.value)
        case JsonSchemaGrammar():
            return checked_schema(grammar.value.definition)
        case JsonGrammar(value=str(text)):
            try:
                return checked_schema(pydantic_core.from_json(text, allow_inf_nan=False))
            except ValueError as error:
                raise ValidationError(f"grammar is not valid: {error}") from error
        case JsonGrammar(value=dict(schema)):
            return checked_schema(schema)
        case _:
            raise ValidationError("grammar is not supported")


def checked_schema(schema: Any) -> ShardGrammar:
    """Properties come in the order in which the client wrote them. Raises ValidationError.

    Whether the schema can be enforced is for the shard to say.
    """
    checked = schema | {"$schema": DRAFT} if isinstance(schema, dict) else schema
    try:
        jsonschema_rs.meta.validate(checked)
    except jsonschema_rs.ValidationError as error:
        raise ValidationError(f"grammar is not valid: {error.message[:LONGEST_MESSAGE]}") from error
    if not isinstance(schema, dict) or "properties" not in schema:
        raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")
    return ShardGrammar("json", pydantic_core.to_json(schema).decode())
