"""Where the embedded router and the stock router answer clients differently: the one place that says so.

A test with `@differs(...)` holds for the embedded router, and must fail in front of the stock router: there it
is a strict xfail. docs/embedded-router.md lists the same subjects.
"""

from enum import Enum

import pytest


class Difference(Enum):
    """The subject, as docs/embedded-router.md calls it."""

    STRING_STOP = "`stop` as a string"
    RESPONSE_FORMAT = "`response_format` in OpenAI's form"
    TOP_P = "`top_p: 1`"
    NULL_CONTENT = "`content: null` without tool calls"
    BOTH_LIMITS = "`max_tokens: null` beside `max_completion_tokens`"
    TOOL_CALLS_REASON = "finish reason of a tool call"
    LOGIT_BIAS = "`logit_bias` as an object"
    CALL_PIECES = "first pieces of a streamed call"
    NO_TOOL_USAGE = "usage after the model wanted no tool"
    JSON_SCHEMAS = "JSON schemas"
    NESTED_TOOL_SCHEMA = "tools with `$defs`"


def differs(difference: Difference) -> pytest.MarkDecorator:
    return pytest.mark.differs(difference)
