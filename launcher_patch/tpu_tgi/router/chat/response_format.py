"""`response_format` of a chat, in TGI's own form or OpenAI's, and the grammar that it means."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tpu_tgi.router.http.request_body import RequestBody
from tpu_tgi.router.requests.grammar import Grammar, JsonGrammar, JsonSchemaGrammar, NamedSchema, RegexGrammar


class TextFormat(RequestBody):
    """No format. OpenAI's."""

    type: Literal["text"]


class JsonFormat(RequestBody):
    """TGI's form: JSON that fits the schema in `value`."""

    type: Literal["json"]
    value: Any


class JsonObjectFormat(RequestBody):
    """TGI's form with a schema in `value`, or OpenAI's without one: any JSON object."""

    type: Literal["json_object"]
    value: Any = None


class JsonSchemaFormat(RequestBody):
    """TGI's form, with the named schema in `value`, or OpenAI's, with the named schema in `json_schema`."""

    type: Literal["json_schema"]
    value: NamedSchema | None = None
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def has_a_schema(self) -> "JsonSchemaFormat":
        if self.value is None and self.json_schema is None:
            raise ValueError(
                '`json_schema` (or `value`) is needed, for example {"schema": {"properties": {}}}'
            )
        return self


ResponseFormat = Annotated[
    TextFormat | JsonFormat | JsonObjectFormat | JsonSchemaFormat | RegexGrammar, Field(discriminator="type")
]


def to_grammar(given: ResponseFormat) -> Grammar | None:
    """None where any text will do."""
    match given:
        case TextFormat():
            return None
        case RegexGrammar():
            return given
        case JsonFormat():
            return JsonGrammar(type="json", value=given.value)
        case JsonObjectFormat():
            if "value" in given.model_fields_set:
                return JsonGrammar(type="json_object", value=given.value)
            return JsonGrammar(type="json_object", value={"type": "object", "properties": {}})
        case JsonSchemaFormat():
            named = given.value if given.json_schema is None else given.json_schema
            return None if named is None else JsonSchemaGrammar(type="json_schema", value=named)
