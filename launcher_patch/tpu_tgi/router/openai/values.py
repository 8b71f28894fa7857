"""Types of fields that both OpenAI routes have."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tpu_tgi.router.http.request_body import Items


def listed(value: Any) -> Any:
    """A client of OpenAI may send one stop sequence as a string; the stock router takes lists only."""
    return [value] if isinstance(value, str) else value


StopSequences = Annotated[Items[str], BeforeValidator(listed, json_schema_input_type=str | list[str])]


def off_at_one(value: Any) -> Any:
    """A client of OpenAI says 1 for "off"; the stock router refuses it."""
    return None if isinstance(value, int | float) and value is not True and value == 1 else value


TopP = Annotated[float | None, BeforeValidator(off_at_one)]


def sampling(temperature: float | None) -> tuple[bool, float | None]:
    """`do_sample` and temperature: these routes sample unless the temperature is 0."""
    return (False, None) if temperature == 0 else (True, temperature)
