"""`adapter_id` and LORA_ADAPTERS, from the wire and the launcher's environment to the engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from text_generation_server.wire.limits import WireVersion

from .conftest import RunningShard
from .router_messages import prefill, request
from .shard_process import connected, launcher_records, run_to_its_end, serving, spelling_checkpoint
from .small_hub import COMMIT, MODEL, small_hub

ADAPTER = {
    "adapter_config.json": b'{"base_model_name_or_path": "some/model"}',
    "adapter_model.safetensors": b"w",
}


@pytest.fixture
def engine_fields() -> dict[str, Any]:
    return {"adapters": ("sql", "law")}


def test_each_request_reaches_the_engine_with_its_adapter_and_an_unknown_one_means_the_base_model(
    running: RunningShard,
) -> None:
    names = ["law", "gpt-4o", "sql"]
    requests = [request(index, "a", adapter_id=name) for index, name in enumerate(names)]
    answer = running.stub(WireVersion.V3).Prefill(prefill(0, *requests, request(3, "a")))
    assert [call.adapter for call in running.engine.fills] == ["law", None, "sql", None]
    assert [generation.tokens.texts[0] for generation in answer.generations] == ["d", "b", "c", "b"]


def test_v2_routers_which_know_no_adapters_get_the_base_model(running: RunningShard) -> None:
    running.stub(WireVersion.V2).Prefill(prefill(0, request(0, "a", v3=False)))
    assert [call.adapter for call in running.engine.fills] == [None]


def save_adapter(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def test_an_adapter_in_a_directory_is_served_under_its_name(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", ADAPTER)
    with (
        serving(tmp_path, LORA_ADAPTERS=f"sql={adapter}") as (_, socket_path),
        connected(socket_path) as stub,
    ):
        answers = stub.Prefill(prefill(0, request(0, "a", adapter_id="sql"), request(1, "a")))
    assert [generation.tokens.texts[0] for generation in answers.generations] == ["c", "b"]


def download(cache: Path, *arguments: str, **variables: str) -> tuple[int, list[tuple[str, str]]]:
    """The launcher's step for each adapter: like that for a model, without --merge-lora."""
    outcome = run_to_its_end(
        *("download-weights", *arguments, "--extension", ".safetensors", "--json-output"),
        **{"HF_HUB_OFFLINE": "0", "HUGGINGFACE_HUB_CACHE": str(cache)} | variables,
    )
    return outcome.returncode, launcher_records(outcome.stdout)


def test_an_adapter_is_downloaded_by_the_launchers_step_and_then_served_from_the_cache(
    tmp_path: Path,
) -> None:
    with small_hub(ADAPTER | {"README.md": b"words", "training_args.bin": b"a pickle"}) as hub:
        exit_code, log = download(tmp_path / "cache", MODEL, HF_ENDPOINT=hub.url)
    assert exit_code == 0
    assert set(hub.fetched) == set(ADAPTER)
    assert log[-1][1].endswith(COMMIT)
    # The hub is gone.
    variables = {"LORA_ADAPTERS": f"sql={MODEL}", "HUGGINGFACE_HUB_CACHE": str(tmp_path / "cache")}
    with serving(tmp_path, **variables) as (_, socket_path), connected(socket_path) as stub:
        answer = stub.Prefill(prefill(0, request(0, "a", adapter_id="sql")))
    assert answer.generations[0].tokens.texts[0] == "c"


def test_a_revision_that_the_hub_does_not_have_is_said_in_one_line(tmp_path: Path) -> None:
    with small_hub(ADAPTER) as hub:
        exit_code, log = download(tmp_path, MODEL, "--revision", "v9", HF_ENDPOINT=hub.url)
    assert exit_code == 1
    assert f"{MODEL} has no revision v9" in log[-1][1]


def test_an_adapter_in_a_directory_needs_no_download(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", ADAPTER)
    exit_code, log = download(tmp_path / "cache", str(adapter))
    assert (exit_code, log[-1][1]) == (0, f"{adapter} is in {adapter}")


def test_an_adapter_that_is_a_pickle_on_the_hub_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with small_hub({"adapter_config.json": b"{}", "adapter_model.bin": b"a pickle"}) as hub:
        exit_code, log = download(tmp_path, MODEL, HF_ENDPOINT=hub.url)
    assert exit_code == 1
    assert "adapter_model.bin on the hub" in log[-1][1]
    assert "safe_serialization=True" in log[-1][1]


def test_an_adapter_beside_a_mounted_model_is_found(tmp_path: Path) -> None:
    mounted = spelling_checkpoint(tmp_path / "mounted")
    adapter = save_adapter(tmp_path / "adapter", ADAPTER)
    variables = {"LORA_ADAPTERS": f"sql={adapter}", "WEIGHTS_CACHE_OVERRIDE": str(mounted)}
    with serving(tmp_path, **variables) as (_, socket_path), connected(socket_path) as stub:
        answer = stub.Prefill(prefill(0, request(0, "a", adapter_id="sql")))
    assert answer.generations[0].tokens.texts[0] == "c"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("sql=/no/such/directory", "/no/such/directory is neither a directory here nor the name of a model"),
        ("sql=a=b", "LORA_ADAPTERS (--lora-adapters) has 'sql=a=b'"),
    ],
)
def test_an_adapter_that_cannot_be_found_ends_the_start_with_its_name(
    tmp_path: Path, value: str, message: str
) -> None:
    model = spelling_checkpoint(tmp_path / "model")
    command: tuple[Any, ...] = ("serve", str(model), "--uds-path", str(tmp_path / "shard"))
    outcome = run_to_its_end(*command, LORA_ADAPTERS=value)
    assert outcome.returncode == 1
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_an_adapter_in_place_of_a_model_is_refused_with_the_command_that_works(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", ADAPTER)
    assert json.loads(ADAPTER["adapter_config.json"])["base_model_name_or_path"] == "some/model"
    outcome = run_to_its_end("serve", str(adapter), "--uds-path", str(tmp_path / "shard"))
    assert outcome.returncode == 1
    assert f"Use --model-id some/model with --lora-adapters {adapter}" in outcome.stderr
