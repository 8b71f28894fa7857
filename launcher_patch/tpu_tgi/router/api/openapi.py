"""The OpenAPI document, made from the descriptions of the routes and from the models of their bodies."""

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from tpu_tgi.router.api.responses import ErrorBody
from tpu_tgi.router.http.operation import Operation
from tpu_tgi.router.settings import ROUTER_VERSION

Json = dict[str, Any]

REJECTIONS = {
    "400": "The body is not JSON",
    "413": "The body is larger than the server's payload limit",
    "415": "The content type is not application/json",
}
FAILURES = {
    422: "The request asks for something that is not allowed, or a field is missing or of a wrong type",
    424: "The model server failed",
    429: "The server is serving as many requests as it may",
    500: "The model server forgot the request before it was finished",
    503: "No request can be served now",
}
KEY = "api_key"


class AnswerSchemas(GenerateJsonSchema):
    """Knows that a field which is left out under a condition is not always there."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return "serialization_exclude_if" not in field and super().field_is_required(field, total)


def document(operations: Iterable[Operation], guarded: bool) -> Json:
    """The description of all routes, in OpenAPI 3.1.

    Args:
        guarded: whether the server was given an API key.
    """
    operations = list(operations)
    schemas, definitions = TypeAdapter.json_schemas(
        [
            (key, mode, TypeAdapter(type_))
            for operation in operations
            for key, mode, type_ in types(operation)
        ],
        ref_template="#/components/schemas/{model}",
        schema_generator=AnswerSchemas,
    )
    paths: Json = {}
    for operation in operations:
        described = describe(operation, {key: schema for (key, _), schema in schemas.items()}, guarded)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    components = {"schemas": definitions.get("$defs", {})}
    if guarded:
        components["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Text Generation Inference", "version": ROUTER_VERSION},
        "paths": paths,
        "components": components,
    }


def types(operation: Operation) -> Iterable[tuple[str, Any, Any]]:
    """Name, direction and type of everything that the operation takes and answers."""
    name = f"{operation.method} {operation.path}"
    if operation.body is not None:
        yield f"{name} body", "validation", operation.body
    if operation.answer is not None:
        yield f"{name} answer", "serialization", operation.answer
    if operation.events is not None:
        yield f"{name} events", "serialization", operation.events
    yield "error", "serialization", ErrorBody


def describe(operation: Operation, schemas: Json, guarded: bool) -> Json:
    """One operation; `schemas` are those of `types`, by their names."""
    name = f"{operation.method} {operation.path}"
    success: Json = {}
    if operation.answer is not None:
        success[operation.media_type] = {"schema": schemas[f"{name} answer"]}
    if operation.events is not None:
        success["text/event-stream"] = {"schema": event(schemas[f"{name} events"])}
    answers = {"200": answer("The answer", success)}
    for status in operation.errors:
        answers[str(status)] = answer(FAILURES[status], {"application/json": {"schema": schemas["error"]}})
    described: Json = {"summary": operation.summary, "responses": answers}
    if operation.body is not None:
        body = {"application/json": {"schema": schemas[f"{name} body"]}}
        described["requestBody"] = {"required": True, "content": body}
        text = {"text/plain": {"schema": {"type": "string"}}}
        answers |= {status: answer(reason, text) for status, reason in REJECTIONS.items()}
        answers.setdefault("422", answer(FAILURES[422], {})).setdefault("content", {}).update(text)
    if guarded and operation.needs_key:
        described["security"] = [{KEY: []}]
        answers["401"] = answer("The API key is missing or wrong", {})
    return described


def event(data: Json) -> Json:
    """A server-sent event: its data is JSON, or the word that ends the stream."""
    json_text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    end = {"type": "string", "const": "[DONE]"}
    return {"type": "object", "properties": {"data": {"anyOf": [json_text, end]}}, "required": ["data"]}


def answer(description: str, content: Json) -> Json:
    return {"description": description, "content": content} if content else {"description": description}
