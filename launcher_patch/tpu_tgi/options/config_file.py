"""Options from a file: what is not given on the command line or as a variable."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.options.option import Panel
from tpu_tgi.options.table import OPTIONS


def read_config(path: Path) -> dict[str, Any]:
    """The values in a TOML file by the names of options, `max-batch-size` or `max_batch_size`.

    Raises InvalidSettingError for what cannot be read, and for names that are no options.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSettingError(
            f"`--config {path}` cannot be read: {error}. A file with lines such as `max-batch-size = 4` would work"
        ) from error
    known = {option.name: option for option in OPTIONS}
    found = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": `{known[near[0]].flag.removeprefix('--')}` would work" if near else ""
            raise InvalidSettingError(f"`--config {path}` has `{key}`, which is no option of `tpu-tgi`{hint}")
        found[name] = value
    return found


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Called by typer before the other options get their values."""
    if path is not None and not context.resilient_parsing:
        try:
            context.default_map = read_config(path)
        except InvalidSettingError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error
    return path


CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="TPU_TGI_CONFIG",
        show_envvar=False,
        is_eager=True,
        callback=use_config,
        metavar="FILE",
        help="TOML file with options, such as `max-batch-size = 4`. The command line and variables count for more.",
        rich_help_panel=Panel.LAUNCHER.value,
    ),
]
