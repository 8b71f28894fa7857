"""Small files of a model, from its directory, the hub or the hub's cache."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from tpu_tgi.router.errors import RouterStartError


def model_file(model_id: str, revision: str | None, name: str) -> Path | None:
    """None if the model has no such file. Raises RouterStartError if that cannot be found out."""
    directory = Path(model_id)
    if directory.is_dir():
        file = directory / name
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(model_id, name, revision=revision))
    except EntryNotFoundError:
        return None
    except OSError as error:
        raise RouterStartError(f"{name} of `--model-id {model_id}` could not be fetched: {error}") from error
