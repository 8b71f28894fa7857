"""From a model id to a directory with its files: local, cached, or downloaded from the Hugging Face hub."""

import json
import os
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from loguru import logger

from text_generation_server.errors import UnsupportedModelError, one_line
from text_generation_server.gguf_files import gguf_directory, names_gguf

WANTED = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.txt", "*.jinja")
"""Configuration, weights, tokenizers and chat templates: no pickles, and no code."""


MODEL, ADAPTER = "config.json", "adapter_config.json"
"""The configuration without which a directory holds no model, or no LoRA adapter."""


SAFETENSORS = "*.safetensors"


def conversion(model: str, destination: Path | str) -> str:
    """A command that writes the weights of a model, and its tokenizer, as this server reads them."""
    return (
        'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"[each.from_pretrained({model!r}, **kind).save_pretrained({str(destination)!r}) "
        "for each, kind in ((T, {}), (M, {'dtype': 'auto'}))]\""
    )


def model_directory(
    model_id: str, revision: str | None, environment: Mapping[str, str], *, or_adapter: bool = False
) -> Path:
    """The directory of a model, downloaded first if it is not here.

    A GGUF file, or one on the hub (NAME/REPOSITORY:Q8_0), is converted once, see `gguf_files`.

    Else, in this order: WEIGHTS_CACHE_OVERRIDE, if it holds a model itself (Inference Endpoints mount one there);
    `model_id`, if it is a directory; the hub's cache, which WEIGHTS_CACHE_OVERRIDE or HUGGINGFACE_HUB_CACHE
    may move; the hub, with HF_TOKEN. A model that is cached whole is used without asking the hub.

    With `or_adapter`, a LoRA adapter will do: launchers download both with one command.

    Raises UnsupportedModelError if there is no such model, it has no safetensors, or it cannot be downloaded.
    """
    if names_gguf(model_id):
        return gguf_directory(model_id, revision, environment)
    override = environment.get("WEIGHTS_CACHE_OVERRIDE")
    if override and (Path(override) / MODEL).is_file():
        logger.info("Using the model in WEIGHTS_CACHE_OVERRIDE={}", override)
        return checked(Path(override), model_id)
    directory = stored_directory(model_id, revision, override or environment.get("HUGGINGFACE_HUB_CACHE"))
    return directory if or_adapter and is_adapter(directory) else checked(directory, model_id)


def adapter_directory(source: str, revision: str | None, environment: Mapping[str, str]) -> Path:
    """The directory of a LoRA adapter, found like that of a model; what is in it is checked when it is read.

    WEIGHTS_CACHE_OVERRIDE counts only if it is a cache, and not a model itself.

    Raises UnsupportedModelError if there is no such adapter, it has no safetensors, or it cannot be downloaded.
    """
    override = environment.get("WEIGHTS_CACHE_OVERRIDE")
    if override and (Path(override) / MODEL).is_file():
        override = None
    if revision is not None and Path(source).is_dir():
        logger.warning("LORA_ADAPTERS: {} is a directory, so revision {} means nothing", source, revision)
    return stored_directory(source, revision, override or environment.get("HUGGINGFACE_HUB_CACHE"))


def stored_directory(name: str, revision: str | None, cache: str | None) -> Path:
    """`name` itself if it is a directory, else its snapshot in the cache (None: the default), downloaded if need be."""
    if Path(name).is_dir():
        return Path(name)
    cached = cached_directory(name, revision, cache)
    if cached is not None:
        logger.info("Using the files of {} in {}", name, cached)
        return cached
    return download(name, revision, cache)


def is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER).is_file() and not (directory / MODEL).is_file()


def checked(directory: Path, model_id: str) -> Path:
    """The directory itself. Raises UnsupportedModelError that names the first file that is missing."""
    if is_adapter(directory):
        base = json.loads((directory / ADAPTER).read_text()).get("base_model_name_or_path")
        raise UnsupportedModelError(
            f"{model_id} is a LoRA adapter and no model. Use --model-id {base} with --lora-adapters {model_id}"
        )
    if missing := missing_file(directory):
        if missing == SAFETENSORS and any(directory.glob("*.bin")):
            raise UnsupportedModelError(
                f"{model_id} has its weights as *.bin, and pickles are not read. This converts them: "
                f"{conversion(str(directory), directory)}"
            )
        raise UnsupportedModelError(
            f"{model_id} cannot be served: {directory} has no {missing}. The server needs config.json, the "
            "files of a fast tokenizer and weights as *.safetensors"
        )
    return directory


def missing_file(directory: Path) -> str | None:
    """The name of a file without which the model, or the adapter, cannot be loaded, or None."""
    if not (directory / MODEL).is_file() and not (directory / ADAPTER).is_file():
        return MODEL
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return next((part for part in parts if not (directory / part).is_file()), None)
    return None if any(directory.glob(SAFETENSORS)) else SAFETENSORS


def cached_directory(model_id: str, revision: str | None, cache: str | None) -> Path | None:
    """The cached files of a model if they are all there.

    Weights come last in a download (see `download`), so where they are, the other files are as well.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(
            snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache,
                local_files_only=True,
                allow_patterns=[MODEL, ADAPTER],
            )
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UnsupportedModelError(
            f"{model_id} is neither a directory here nor the name of a model on the hub, such as "
            "HuggingFaceTB/SmolLM2-135M-Instruct"
        ) from error
    return None if missing_file(directory) else directory


def is_wanted(file: str) -> bool:
    """Leaves out other formats, in subdirectories, and weights once more in their authors' own layout."""
    if "/" in file or file.startswith("consolidated"):
        return False
    return any(fnmatch(file, pattern) for pattern in WANTED)


def download(model_id: str, revision: str | None, cache: str | None) -> Path:
    """Downloads the wanted files, weights last, with a line in the log for each of them."""
    # The HTTP client of huggingface_hub, which lets its errors through.
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        XetDownloadError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # They are drawn on stderr, which nobody sees; the log has a line for each file instead.
    disable_progress_bars()
    where = f"{model_id} (revision {revision or 'main'})"
    try:
        siblings = HfApi().model_info(model_id, revision=revision, files_metadata=True).siblings or []
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in siblings}
        files = sorted(filter(is_wanted, sizes), key=lambda file: (file.endswith(".safetensors"), file))
        if "adapter_model.bin" in sizes and "adapter_model.safetensors" not in sizes:
            raise UnsupportedModelError(
                f"{where} has adapter_model.bin on the hub, and pickles are not read. Load it with PEFT, and save it "
                "with safe_serialization=True"
            )
        if not any(file.endswith(".safetensors") for file in files):
            convert = ""
            if any(file.endswith(".bin") for file in sizes):
                convert = f". This converts its pickles: {conversion(model_id, Path(model_id).name)}"
            raise UnsupportedModelError(
                f"{where} has no *.safetensors on the hub, and other formats are not read{convert}"
            )
        gigabytes = sum(sizes[file] for file in files) / 1e9
        logger.info("Downloading {}: {} files, {:.2f} GB", where, len(files), gigabytes)
        for number, file in enumerate(files, start=1):
            started = time.monotonic()
            hf_hub_download(model_id, file, revision=revision, cache_dir=cache)
            megabytes, seconds = sizes[file] / 1e6, time.monotonic() - started
            logger.info("[{}/{}] {} ({:.1f} MB) in {:.1f} s", number, len(files), file, megabytes, seconds)
        # Everything is here; this returns the directory, and fetches again what changed meanwhile.
        return Path(snapshot_download(model_id, revision=revision, cache_dir=cache, allow_patterns=files))
    except GatedRepoError as error:
        raise UnsupportedModelError(
            f"{where} is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise UnsupportedModelError(f"{model_id} has no revision {revision}. Check --revision") from error
    except RepositoryNotFoundError as error:
        raise UnsupportedModelError(
            f"{model_id} is neither a directory here nor a model on the hub that may be read. Check the "
            "name, or set HF_TOKEN if it is private"
        ) from error
    except (HTTPError, XetDownloadError, OSError) as error:
        raise UnsupportedModelError(
            f"{where} is not complete in the cache and cannot be downloaded: {one_line(error)}"
        ) from error


def ignore_hf_transfer() -> None:
    """Forgets HF_HUB_ENABLE_HF_TRANSFER, which launchers always set.

    huggingface_hub no longer uses that package, and warns at import if the variable is set.
    """
    os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)
