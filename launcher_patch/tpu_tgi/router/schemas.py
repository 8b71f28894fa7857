"""Request bodies. Strict types, unknown fields ignored, the stock router's rules for null and absence.

A field that is not Optional refuses null. Ranges here are those of the stock router's integer types; what is
allowed inside of them is decided by validation.py, whose errors look different.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Unsigned32 = Annotated[int, Field(ge=0, lt=2**32)]
Unsigned64 = Annotated[int, Field(ge=0, lt=2**64)]
Signed32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class RequestBody(BaseModel):
    """No conversion between types except from an integer to a number."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class GenerateParameters(RequestBody):
    """The `parameters` of /generate, /generate_stream and /."""

    best_of: Unsigned64 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: Signed32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: Unsigned32 | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: Unsigned64 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: Unsigned64 | None = None
    top_n_tokens: Unsigned32 | None = None
    grammar: dict[str, Any] | None = None
    adapter_id: str | None = None


class GenerateRequest(RequestBody):
    """Body of /generate and /generate_stream. Without `parameters` it samples; with `{}` it is greedy."""

    inputs: str
    parameters: GenerateParameters = GenerateParameters(do_sample=True)


class CompatGenerateRequest(GenerateRequest):
    """Body of `/`, which older clients call."""

    stream: bool = False
