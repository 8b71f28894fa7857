"""The log of launcher and router: one format for its own records, those of the shard and those of libraries."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
from loguru import logger

from tpu_tgi.embedded.shard_log import ShardLog
from tpu_tgi.logs import configure

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logger.remove()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def speak() -> None:
    logger.bind(target="tpu_tgi.part").info("100% of {braces} and %s stay")
    ShardLog().forward_line(json.dumps({"text": "of the shard", "record": {"level": {"name": "WARNING"}}}))
    logging.getLogger("some.library").warning("said %s", "this")
    logging.getLogger("uvicorn.error").info("every connection")
    logging.getLogger("some.library").debug("too much")
    try:
        raise ValueError("broken {thing}")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("in a request")


def test_text_lines_have_time_level_and_who_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", json_output=False)
    speak()
    lines = capsys.readouterr().out.splitlines()
    said = [re.sub(f"^{TIME}", "TIME", line) for line in lines]
    assert said[:4] == [
        "TIME  INFO tpu_tgi.part: 100% of {braces} and %s stay",
        "TIME  WARN text-generation-server: of the shard",
        "TIME  WARN some.library: said this",
        "TIME ERROR uvicorn.error: in a request",
    ]
    assert said[4] == "Traceback (most recent call last):"
    assert said[-1] == "ValueError: broken {thing}"


def test_json_lines_have_the_shape_of_the_stock_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO", json_output=True)
    speak()
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(re.fullmatch(TIME, record.pop("timestamp")) for record in records)
    exception = records[-1]["fields"].pop("exception")
    assert exception.startswith("Traceback")
    assert exception.endswith("ValueError: broken {thing}")
    assert records == [
        {"level": level, "fields": {"message": message}, "target": target}
        for level, message, target in [
            ("INFO", "100% of {braces} and %s stay", "tpu_tgi.part"),
            ("WARN", "of the shard", "text-generation-server"),
            ("WARN", "said this", "some.library"),
            ("ERROR", "in a request", "uvicorn.error"),
        ]
    ]


def test_off_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    configure("OFF", json_output=False)
    speak()
    assert capsys.readouterr().out == ""
