"""The rules that all request bodies share: strict types, unknown fields ignored.

A field that is not Optional refuses null. Ranges here are those of the stock router's integer types; what is
allowed inside of them is decided by validation.py, whose errors look different.
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Unsigned32 = Annotated[int, Field(ge=0, lt=2**32)]
Unsigned64 = Annotated[int, Field(ge=0, lt=2**64)]
Signed32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]

T = TypeVar("T")

# The first item that does not fit is the only one that is reported. A list of a hundred thousand of them would
# otherwise make as many errors, which takes seconds in which nobody else is served.
Items = Annotated[list[T], Field(fail_fast=True)]


class RequestBody(BaseModel):
    """No conversion between types except from an integer to a number."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)
