"""Walkers over the kinds of tokenizers that models have."""

import pytest

from grammar.walks import Walker
from support import small_tokenizers


@pytest.fixture(scope="session")
def walker() -> Walker:
    """Byte-level BPE."""
    return Walker(small_tokenizers.byte_level())


@pytest.fixture(scope="session", params=["byte_level", "byte_fallback"])
def any_walker(request: pytest.FixtureRequest) -> Walker:
    return Walker(getattr(small_tokenizers, request.param)())
