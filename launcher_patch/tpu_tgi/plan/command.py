"""The command `tpu-tgi plan`."""

import json
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.errors import InvalidSettingError, UnsupportedModelError
from text_generation_server.model.quantisation.scheme import MADE, STORED
from tpu_tgi.plan.tpus import TPUS, Tpu, tpu_named

if TYPE_CHECKING:
    from text_generation_server.model.description import ModelDescription, ModelSource

PLOTS = (".png", ".svg")

WITHOUT_A_TPU = {
    "JAX_PLATFORMS": "cpu",
    # libtpu looks for its machine, and waits for one that does not answer; and it wants to be alone.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What JAX and libtpu read."""


def plan(
    model: Annotated[
        str, typer.Argument(help="Local directory of the model, or its name on the Hugging Face hub.")
    ],
    tpu: Annotated[str, typer.Option(help=f"Type and number of chips: {', '.join(TPUS)}.", metavar="TPU")],
    quantize: Annotated[
        str | None,
        typer.Option(help="Format of linear layers, as for serving: int8, fp8, ...", metavar="FORMAT"),
    ] = None,
    kv_cache_dtype: Annotated[
        CacheDtype | None, typer.Option(help="Data type of the KV cache, as for serving.", metavar="DTYPE")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Batch size; by default the largest that fits.", min=1, metavar="SLOTS")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help="Sequence length; by default what the model allows, at most 2048.", min=2, metavar="TOKENS"
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="File for a plot of slots against speed, .png or .svg.", metavar="FILE"),
    ] = None,
) -> None:
    """Compute what fits on a TPU and how fast decoding can be at best, with the TPU's own compiler, on any machine.

    Only config.json and the headers of the weights are read. Needs the extra `plan` of this package.
    """
    try:
        check(quantize, plot)
        run(
            model,
            tpu_named(tpu),
            quantize,
            kv_cache_dtype,
            batch,
            length,
            revision,
            as_json=as_json,
            plot=plot,
        )
    except (InvalidSettingError, UnsupportedModelError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


def check(quantize: str | None, plot: Path | None) -> None:
    """Raises InvalidSettingError."""
    if quantize is not None and quantize not in (*MADE, *STORED):
        raise InvalidSettingError(
            f"`--quantize {quantize}` is not known. Use one of {', '.join((*MADE, *STORED))}"
        )
    if plot is not None and plot.suffix not in PLOTS:
        raise InvalidSettingError(f"`--plot {plot}` must end in {' or '.join(PLOTS)}, for example plan.svg")
    for package, wanted in (("libtpu", True), ("matplotlib", plot is not None)):
        if wanted and find_spec(package) is None:
            raise InvalidSettingError(f"{package} is not installed: pip install 'tpu-tgi[plan]'")


def run(
    model: str,
    tpu: Tpu,
    quantize: str | None,
    cache_dtype: CacheDtype | None,
    batch: int | None,
    length: int | None,
    revision: str | None,
    *,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Raises InvalidSettingError, UnsupportedModelError."""
    for name, value in WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    # Not earlier: they import torch and JAX.
    from tpu_tgi.plan import report
    from tpu_tgi.plan.model import headers_of, source_of
    from tpu_tgi.plan.planning import make_plan
    from tpu_tgi.plan.programs import describe

    source = source_of(headers_of(model, revision), "bfloat16", quantize)
    description = describe(source)
    length = checked_length(length, description.positions)
    made = make_plan(
        source, description, tpu, cache_dtype, batch, length, lambda line: typer.echo(line, err=True)
    )
    if not made.choices:
        raise InvalidSettingError(
            f"{model} does not fit on {tpu.name} with --length {length}"
            f"{f' and --batch {batch}' if batch else ''}: {'; '.join(made.refused)}. "
            f"{what_would_fit(source, description, tpu, cache_dtype, batch, length)}"
        )
    if plot is not None:
        report.save_plot(made, f"{model} on {tpu.name}, {length} tokens", plot)
    best = report.fastest(made)
    commands = {choice.chips: report.command_line(choice, model, quantize, cache_dtype) for choice in best}
    if as_json:
        listed = [
            {**asdict(choice), "command": report.command_line(choice, model, quantize, cache_dtype)}
            for choice in made.choices
        ]
        found = {"model": model, "tpu": asdict(tpu), "choices": listed, "refused": made.refused}
        typer.echo(
            json.dumps(found | {"layers_compiled": made.layers[:2], "layers": made.layers[2]}, indent=2)
        )
        return
    lines = [*report.remarks(made, tpu, length), "", report.as_table(made), ""]
    lines += [f"Does not fit: {each}" for each in made.refused]
    lines += [
        "",
        "To start the fastest for each number of chips:",
        *(f"  {each}" for each in commands.values()),
    ]
    typer.echo("\n".join(lines))


def checked_length(asked: int | None, positions: int) -> int:
    """As the shard takes it. Raises InvalidSettingError."""
    if asked is not None and asked > positions:
        raise InvalidSettingError(
            f"`--length {asked}` is more than the model allows: use {positions} or less"
        )
    return asked or min(2048, positions)


def what_would_fit(
    source: "ModelSource",
    description: "ModelDescription",
    tpu: Tpu,
    cache_dtype: CacheDtype | None,
    batch: int | None,
    length: int,
) -> str:
    """Another option that works, by arithmetic."""
    from tpu_tgi.plan.planning import fits_by_arithmetic
    from tpu_tgi.plan.programs import describe

    if source.made is None and not source.stored:
        from dataclasses import replace

        smaller = describe(replace(source, made=MADE["int8"]))
        if fits_by_arithmetic(smaller, source.dtype, tpu, cache_dtype, batch, length):
            return "--quantize int8 would fit"
    larger = [
        other.name
        for other in TPUS.values()
        if fits_by_arithmetic(description, source.dtype, other, cache_dtype, batch, length)
    ]
    if larger:
        return f"--tpu {larger[0]} would fit"
    return "No TPU of one host would: a smaller model would"
