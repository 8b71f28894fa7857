"""The options as a table: complete, and as `--help` shows them."""

import dataclasses
import re

import pytest
import typer.testing

from tpu_tgi.cli import serve
from tpu_tgi.options.option import Panel
from tpu_tgi.options.table import OPTIONS, STOCK_ONLY_VARIABLES
from tpu_tgi.router.settings import RouterSettings

# Every option of the stock launcher v3.3.7: `text-generation-launcher --help`.
STOCK_OPTIONS = """
model-id revision validation-workers sharded num-shard quantize speculate dtype kv-cache-dtype trust-remote-code
max-concurrent-requests max-best-of max-stop-sequences max-top-n-tokens max-input-tokens max-input-length
max-total-tokens waiting-served-ratio max-batch-prefill-tokens max-batch-total-tokens max-waiting-tokens max-batch-size
cuda-graphs hostname port prometheus-port shard-uds-path master-addr master-port huggingface-hub-cache
weights-cache-override disable-custom-kernels cuda-memory-fraction rope-scaling rope-factor json-output otlp-endpoint
otlp-service-name cors-allow-origin api-key watermark-gamma watermark-delta ngrok ngrok-authtoken ngrok-edge
tokenizer-config-path disable-grammar-support env max-client-batch-size lora-adapters usage-stats payload-limit
enable-prefill-logprobs graceful-termination-timeout
""".split()  # noqa: SIM905 - a list of fifty lines would say no more

NOTHING_TO_ONE_PROCESS = {"master-addr", "master-port", "env"}


def test_every_option_of_the_stock_launcher_is_known_or_known_to_be_its_own() -> None:
    ours = {option.flag.removeprefix("--") for option in OPTIONS if not option.own}
    its_own = {name.lower().replace("_", "-") for name in STOCK_ONLY_VARIABLES} | NOTHING_TO_ONE_PROCESS
    assert ours | its_own == set(STOCK_OPTIONS)
    assert not ours & its_own


def test_every_setting_of_the_router_has_an_option() -> None:
    settings = {field.name for field in dataclasses.fields(RouterSettings)}
    assert settings - {option.name for option in OPTIONS} == {"compute_type", "api_keys"}


def test_help_shows_every_option_with_unit_and_default_in_its_group() -> None:
    text = typer.testing.CliRunner().invoke(serve, ["--help"], env={"PATH": "", "COLUMNS": "200"}).output
    groups = re.split(r"^╭─ (.*?) ─+╮$", text, flags=re.MULTILINE)
    shown = dict(zip(groups[1::2], groups[2::2], strict=True))
    assert [name for name in shown if name != "Options"] == [str(panel) for panel in Panel]
    for option in OPTIONS:
        (line,) = re.findall(rf"^│[ *]+{option.flag} .*$", shown[option.panel], re.MULTILINE)
        assert option.unit in line
    numbers = [option for option in OPTIONS if option.kind in (int, float)]
    assert all(option.unit and (option.otherwise or option.default is not None) for option in numbers)


@pytest.mark.parametrize(
    ("option", "value", "works"),
    [
        ("--port", "65536", "65535"),
        ("--port", "-1", "0"),
        ("--max-batch-size", "0", "1"),
        ("--graceful-termination-timeout", "-5", "0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_nearest_that_is_taken(
    option: str, value: str, works: str
) -> None:
    words = ["--model-id", "model", "--embedded", "--dry-run", option, value]
    outcome = typer.testing.CliRunner().invoke(serve, words, env={"PATH": "", "COLUMNS": "200"})
    assert outcome.exit_code == 2
    assert f"Invalid value for '{option}'" in outcome.output
    assert f"or equal to {works} " in outcome.output
