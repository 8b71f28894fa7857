"""What a client sends does not fill the log of the shard."""

from collections.abc import Iterator

import pytest
from loguru import logger

from text_generation_server.errors import InvalidRequestError
from text_generation_server.telemetry import Flood, configure_logging


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """Other tests of this process do not log to the standard output."""
    yield
    logger.remove()


def test_a_long_value_is_quoted_in_part() -> None:
    error = InvalidRequestError(f"`stop` is too long. Given: {'x' * 1_000_000}")
    assert str(error).startswith("`stop` is too long. Given: xxx")
    assert len(str(error)) < 1100


@pytest.mark.parametrize("json_output", [False, True])
def test_a_long_record_is_cut_however_it_is_written(
    capfd: pytest.CaptureFixture[str], json_output: bool
) -> None:
    configure_logging("INFO", json_output=json_output)
    logger.warning("x" * 1_000_000)
    assert len(capfd.readouterr().out) < 5000


def test_one_warning_again_and_again_does_not_flood_the_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flood, "WINDOW_SECONDS", 0.2)
    configure_logging("INFO", json_output=False)

    def refuse() -> None:
        logger.warning("refused")

    for _ in range(10 * Flood.BURST):
        refuse()
    assert capfd.readouterr().out.count("refused") <= 2 * Flood.BURST
