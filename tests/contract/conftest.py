"""The engines that are held to the contract."""

from collections.abc import Callable

import pytest

from text_generation_server.engine.contract import Engine
from text_generation_server.engine.fake import FakeEngine

MAX_LENGTH = 16

MAKERS: dict[str, Callable[[], Engine]] = {
    "fake": lambda: FakeEngine(batch_size=2, max_length=MAX_LENGTH, scores_prompts=False, adapters=("one",)),
}
"""An engine of two slots of MAX_LENGTH tokens with an adapter named "one", that does not score prompts."""


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest) -> Engine:
    return MAKERS[request.param]()
