"""Logprobs are printed as 32-bit floats, which numpy knows how to do."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpu_tgi.router.api.responses import PromptTokenBody, shortest_float32, to_float32

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(FLOAT32)
def test_the_digits_give_back_the_same_32_bit_float(value: float) -> None:
    assert struct.pack("f", float(repr(shortest_float32(value)))) == struct.pack("f", value)


@given(FLOAT32)
def test_no_more_digits_are_printed_than_numpy_needs(value: float) -> None:
    ours = len(digits(repr(shortest_float32(value))))
    numpys = len(digits(np.format_float_scientific(np.float32(value), unique=True)))
    # Next to a power of two the nearest decimal may need one digit more than the shortest one.
    mantissa, _ = math.frexp(value)
    assert ours <= numpys + (abs(mantissa) == 0.5)


def digits(number: str) -> str:
    return number.lower().split("e")[0].replace("-", "").replace(".", "").strip("0")


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.34, "-0.34"), (0.0, "0.0"), (-1.0, "-1.0"), (math.nan, "null"), (-math.inf, "null"), (1e-7, "1e-7")],
)
def test_a_logprob_is_printed_as_the_stock_router_does(value: float, text: str) -> None:
    body = PromptTokenBody(id=1, text="é", logprob=to_float32(value))
    assert body.model_dump_json() == f'{{"id":1,"text":"é","logprob":{text}}}'


def test_a_number_beyond_the_largest_32_bit_float_is_infinite() -> None:
    assert to_float32(1e300) == math.inf
    assert to_float32(-1e300) == -math.inf
