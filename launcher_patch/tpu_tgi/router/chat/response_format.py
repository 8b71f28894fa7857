"""From `response_format` to the grammar that the answer must match."""

from tpu_tgi.router.openai.response_format import (
    JsonFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
    TextFormat,
)
from tpu_tgi.router.requests.grammar import Grammar, JsonGrammar, JsonSchemaGrammar, RegexGrammar


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
