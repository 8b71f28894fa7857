"""From a model id to its files: a directory, the cache or the hub, and one clear line if there are none."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .shard_process import COMMAND, environment, launcher_records, run_to_its_end, spelling_checkpoint
from .small_hub import COMMIT, MODEL, small_hub

WEIGHTS = {
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "model-00001-of-00002.safetensors": b"first",
    "model-00002-of-00002.safetensors": b"second",
}
SMALL = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer.model": b"pieces",
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "modeling_odd.py": b"code",
    "consolidated.safetensors": b"once more",
    "onnx/model.json": b"{}",
    "README.md": b"words",
}


def download(model_id: str, cache: Path, **variables: str) -> tuple[int, list[tuple[str, str]], str]:
    """Exit code, log and stderr of the launcher's download step."""
    outcome = run_to_its_end(
        *("download-weights", model_id, "--json-output"),
        **{"HF_HUB_OFFLINE": "0", "HUGGINGFACE_HUB_CACHE": str(cache), "HF_HUB_ENABLE_HF_TRANSFER": "1"}
        | variables,
    )
    return outcome.returncode, launcher_records(outcome.stdout), outcome.stderr


def test_a_download_takes_weights_last_and_neither_pickles_nor_code(tmp_path: Path) -> None:
    with small_hub(WEIGHTS | UNWANTED | SMALL) as hub:
        exit_code, log, stderr = download(MODEL, tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN="hf_secret")
    assert (exit_code, stderr) == (0, "")
    assert set(hub.fetched) == set(SMALL) | set(WEIGHTS)
    assert hub.fetched[-2:] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert hub.tokens == {"Bearer hf_secret"}
    snapshot = tmp_path / "models--someone--spelling" / "snapshots" / COMMIT
    assert {path.name for path in snapshot.iterdir()} == set(SMALL) | set(WEIGHTS)
    texts = [text for level, text in log if level == "INFO"]
    assert texts[0] == f"Downloading {MODEL} (revision main): 8 files, 0.00 GB"
    assert texts[8].startswith("[8/8] model-00002-of-00002.safetensors (0.0 MB) in ")
    assert texts[9] == f"{MODEL} is in {snapshot}"


def test_what_is_cached_whole_is_used_without_a_network(tmp_path: Path) -> None:
    with small_hub(WEIGHTS | SMALL) as hub:
        download(MODEL, tmp_path, HF_ENDPOINT=hub.url)
    exit_code, log, stderr = download(MODEL, tmp_path, HF_ENDPOINT=hub.url)  # nobody answers there any more
    assert (exit_code, stderr) == (0, "")
    assert log[-1][1].endswith(COMMIT)


def test_an_interrupted_download_is_completed(tmp_path: Path) -> None:
    with small_hub(WEIGHTS | SMALL) as hub:
        download(MODEL, tmp_path, HF_ENDPOINT=hub.url)
        snapshot = tmp_path / "models--someone--spelling" / "snapshots" / COMMIT
        lost = snapshot / "model-00002-of-00002.safetensors"
        lost.resolve().unlink()
        lost.unlink()
        hub.fetched.clear()
        exit_code, _, _ = download(MODEL, tmp_path, HF_ENDPOINT=hub.url)
    assert exit_code == 0
    assert hub.fetched == ["model-00002-of-00002.safetensors"]
    assert lost.read_bytes() == b"second"


@pytest.mark.parametrize(
    ("model_id", "files", "arguments", "message"),
    [
        ("someone/unknown", SMALL, [], "someone/unknown is neither a directory here nor a model on the hub"),
        (MODEL, SMALL | UNWANTED, [], "has no *.safetensors on the hub"),
        (MODEL, SMALL | WEIGHTS, ["--revision", "v9"], f"{MODEL} has no revision v9. Check --revision"),
        (
            "/no/such/directory",
            SMALL,
            [],
            "/no/such/directory is neither a directory here nor the name of a model",
        ),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    tmp_path: Path, model_id: str, files: dict[str, bytes], arguments: list[str], message: str
) -> None:
    with small_hub(files) as hub:
        outcome = run_to_its_end(
            *("download-weights", model_id, "--json-output", *arguments),
            HF_ENDPOINT=hub.url,
            HF_HUB_OFFLINE="0",
            HUGGINGFACE_HUB_CACHE=str(tmp_path),
        )
    assert outcome.returncode == 1
    level, text = launcher_records(outcome.stdout)[-1]
    assert level == "ERROR"
    assert message in text
    assert outcome.stderr == f"Error: {text}\n"


def test_a_hub_out_of_reach_is_said_in_one_line(tmp_path: Path) -> None:
    exit_code, log, stderr = download(MODEL, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert exit_code == 1
    assert f"{MODEL} (revision main) is not complete in the cache and cannot be downloaded" in log[-1][1]
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "config.json"),
        ("model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ],
)
def test_a_directory_without_a_file_is_refused_by_its_name(tmp_path: Path, missing: str, named: str) -> None:
    for name, data in (WEIGHTS | SMALL).items():
        if name != missing:
            (tmp_path / name).write_bytes(data)
    outcome = run_to_its_end("serve", str(tmp_path), "--uds-path", str(tmp_path / "shard"))
    assert outcome.returncode == 1
    assert f"has no {named}" in outcome.stderr


def test_a_mounted_model_overrides_the_name(tmp_path: Path) -> None:
    mounted = spelling_checkpoint(tmp_path / "mounted")
    exit_code, log, _ = download("someone/else", tmp_path / "cache", WEIGHTS_CACHE_OVERRIDE=str(mounted))
    assert exit_code == 0
    assert log[-1][1] == f"someone/else is in {mounted}"


def test_an_override_without_a_model_in_it_is_the_cache(tmp_path: Path) -> None:
    with small_hub(WEIGHTS | SMALL) as hub:
        exit_code, _, _ = download(
            MODEL, tmp_path / "unused", HF_ENDPOINT=hub.url, WEIGHTS_CACHE_OVERRIDE=str(tmp_path / "mounted")
        )
    assert exit_code == 0
    assert (tmp_path / "mounted" / "models--someone--spelling").is_dir()
    assert not (tmp_path / "unused").exists()


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    small_disk = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"',
        str(cache),
    ]
    if shutil.which("unshare") is None or subprocess.run([*small_disk, "true"], check=False).returncode != 0:
        pytest.skip("a small disk needs `unshare` and user namespaces, which this machine does not allow")
    with small_hub(SMALL | {"model.safetensors": bytes(2**20)}) as hub:
        outcome = subprocess.run(
            [*small_disk, *COMMAND, "download-weights", MODEL, "--json-output"],
            env=environment(
                {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HUGGINGFACE_HUB_CACHE": str(cache)}
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert outcome.returncode == 1
    level, text = launcher_records(outcome.stdout)[-1]
    assert level == "ERROR"
    assert text == (
        f"{MODEL} (revision main) is not complete in the cache and cannot be downloaded: "
        "[Errno 28] No space left on device"
    )
    assert outcome.stderr.splitlines()[-1] == f"Error: {text}"
    assert "Traceback" not in outcome.stderr


def test_a_hub_that_goes_away_within_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    with small_hub(SMALL | WEIGHTS, breaks_off="model-00002-of-00002.safetensors") as hub:
        exit_code, log, stderr = download(MODEL, tmp_path, HF_ENDPOINT=hub.url)
    assert exit_code == 1
    assert f"{MODEL} (revision main) is not complete in the cache and cannot be downloaded: " in log[-1][1]
    assert "Traceback" not in stderr
