"""In what keys and values are kept, if not in the dtype of the model: one byte for a number. No torch here."""

from enum import StrEnum

SCALE_DTYPE = "bfloat16"
"""Its rounding costs nothing, since numbers are divided by the scale as it is kept."""

UNIT = 2.0**-7
"""What 1 stands for in int8, of the scale: from -127 to 127 becomes less than one, so that no product with it is
beyond float16 that was not before. Multiplying by it is exact."""

LARGEST = 127


class CacheDtype(StrEnum):
    """As --kv-cache-dtype has it. In fp8 numbers are rounded as they are, and those that are too large become the
    largest; in int8 each head of each position has a scale, by which its largest number becomes 127."""

    FP8_E4M3FN = "fp8_e4m3fn"
    FP8_E5M2 = "fp8_e5m2"
    INT8 = "int8"

    @property
    def is_scaled(self) -> bool:
        return self is CacheDtype.INT8

    @property
    def on_device(self) -> str:
        """As numpy and torch have it."""
        return self.value.replace("fp8", "float8")
