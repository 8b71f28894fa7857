"""GGUF files as checkpoints: a file here or on the hub is found, converted once, and kept as a directory."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from loguru import logger

from text_generation_server.errors import UnsupportedModelError, one_line

ON_THE_HUB = re.compile(r"^([\w.-]+/[\w.-]+):(\w+)$")
"""A model of the hub and the kind of its file, as in "bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0"."""


def names_gguf(model_id: str) -> bool:
    """Whether a --model-id means a GGUF file."""
    return model_id.endswith(".gguf") or (
        ON_THE_HUB.match(model_id) is not None and not Path(model_id).is_dir()
    )


def gguf_directory(model_id: str, revision: str | None, environment: Mapping[str, str]) -> Path:
    """The checkpoint that is made of a GGUF file, in the cache of the hub; it is made now if it is not there.

    Raises UnsupportedModelError: there is no such file, or its model cannot be served.
    """
    cache = cache_directory(environment)
    match = ON_THE_HUB.match(model_id)
    file = hub_file(match[1], match[2], revision, environment) if match else Path(model_id)
    if not file.is_file():
        raise UnsupportedModelError(f"{model_id} is no file here; on the hub, NAME/REPOSITORY:Q8_0 names one")
    file = file.resolve()
    status = file.stat()
    key = hashlib.sha256(f"{file}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:20]
    directory = cache / "converted-gguf" / f"{Path(model_id).stem.replace(':', '-')}-{key}"
    if not directory.is_dir():
        make(file, directory)
    logger.info("Using {} as it is kept in {}", model_id, directory)
    return directory


def make(file: Path, directory: Path) -> None:
    """Converts in a process of its own, which needs torch and transformers; the directory appears when it is whole."""
    if find_spec("gguf") is None:
        raise UnsupportedModelError(f"{file} is read with the package gguf: pip install 'tpu-tgi[gguf]'")
    logger.info("Converting {}, {:.2f} GB, once", file, file.stat().st_size / 1e9)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".new-"))
    try:
        command = [sys.executable, "-P", "-m", "text_generation_server.model.gguf_conversion"]
        outcome = subprocess.run(
            [*command, str(file), str(unfinished)], capture_output=True, text=True, check=False
        )
        if outcome.returncode != 0:
            lines = outcome.stderr.strip().splitlines() or [f"the conversion ended with {outcome.returncode}"]
            raise UnsupportedModelError(lines[-1])
        unfinished.chmod(0o755)
        os.replace(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def cache_directory(environment: Mapping[str, str]) -> Path:
    """That of the hub, which WEIGHTS_CACHE_OVERRIDE or HUGGINGFACE_HUB_CACHE may move."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(
        environment.get("WEIGHTS_CACHE_OVERRIDE") or environment.get("HUGGINGFACE_HUB_CACHE") or HF_HUB_CACHE
    )


def hub_file(name: str, kind: str, revision: str | None, environment: Mapping[str, str]) -> Path:
    """The one file of a repository that has the kind in its name, downloaded if it is not in the cache."""
    # The HTTP client of huggingface_hub, which lets its errors through.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = cache_directory(environment)
    pattern = f"*{kind}*.gguf"
    try:
        snapshot = snapshot_download(
            name, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns=[pattern]
        )
        here = [str(path.relative_to(snapshot)) for path in Path(snapshot).rglob("*.gguf")]
        if len(found := matching(here, kind)) == 1:
            return Path(snapshot) / found[0]
    except LocalEntryNotFoundError:
        pass
    try:
        files = [each.rfilename for each in HfApi().model_info(name, revision=revision).siblings or []]
        found = matching(files, kind)
        if len(found) != 1:
            there = ", ".join(file for file in files if file.endswith(".gguf")) or "none"
            raise UnsupportedModelError(
                f"{name}:{kind} must name one GGUF file, and names {len(found)}. The GGUF files there: {there}"
            )
        logger.info("Downloading {} of {}", found[0], name)
        return Path(hf_hub_download(name, found[0], revision=revision, cache_dir=cache))
    except (HTTPError, OSError) as error:
        raise UnsupportedModelError(
            f"{name}:{kind} is not in the cache and cannot be downloaded: {one_line(error)}"
        ) from error


def matching(files: list[str], kind: str) -> list[str]:
    """The GGUF files whose name ends with the kind, whatever the case."""
    return [file for file in files if file.lower().endswith(f"{kind.lower()}.gguf")]
