"""The rules that all request bodies share: strict types, unknown fields ignored.

A field that is not Optional refuses null. Ranges here are those of the stock router's integer types; what is
allowed inside of them is decided by validation.py, whose errors look different.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Unsigned32 = Annotated[int, Field(ge=0, lt=2**32)]
Unsigned64 = Annotated[int, Field(ge=0, lt=2**64)]
Signed32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class RequestBody(BaseModel):
    """No conversion between types except from an integer to a number."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)
