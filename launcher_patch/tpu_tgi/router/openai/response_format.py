"""`response_format` of a chat request: TGI's own form, in which a grammar is written, or OpenAI's."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tpu_tgi.router.http.request_body import RequestBody
from tpu_tgi.router.requests.grammar import NamedSchema, RegexGrammar


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
