"""`tpu-tgi demo`: a small model that can be tried at once."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.demo_model import NAME, complete

# What the conversion of the model needs, and only the extra brings.
NEEDED = ("gguf", "accelerate")

# Where nobody else is served, and the page is easily found.
HOSTNAME, PORT = "127.0.0.1", "8080"


def demo_arguments(words: list[str], environment: Mapping[str, str]) -> list[str]:
    """The words of `tpu-tgi` that serve the demo model, with `words` after them. Prepares the model if it is not here.

    Raises InvalidSettingError if it cannot be prepared.
    """
    directory = model_directory(environment)
    if not complete(directory):
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise InvalidSettingError(
                f"The demo model cannot be prepared without {' and '.join(missing)}: "
                "`pip install 'tpu-tgi[demo]'` would work"
            )
        # In a process of its own, which gives the memory of the conversion back.
        command = [sys.executable, "-m", "tpu_tgi.demo_model", str(directory)]
        if (code := subprocess.run(command, check=False).returncode) != 0:
            raise InvalidSettingError(
                f"The demo model could not be prepared: exit code {code}. The reason is above"
            )
    given = {word.partition("=")[0] for word in words}
    added = []
    if "--hostname" not in given:
        added += ["--hostname", HOSTNAME]
    if not given & {"--port", "-p"} and not environment.get("PORT"):
        added += ["--port", PORT]
    return ["--model-id", str(directory), *added, *words]


def model_directory(environment: Mapping[str, str]) -> Path:
    """In the user's cache, beside the compiled programs."""
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path(environment.get("XDG_CACHE_HOME") or f"{home}/.cache") / "tpu-tgi" / "models" / NAME
