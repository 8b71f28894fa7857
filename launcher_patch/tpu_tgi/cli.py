"""The command `tpu-tgi`: the stock launcher's options, as far as the embedded parts serve them."""

import asyncio
import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.launcher import launch
from tpu_tgi.logs import LEVELS, configure
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.settings import LauncherSettings, agreed, check_lengths

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Dtype(StrEnum):
    """What the shard can be asked for."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


SERVER, LIMITS, LOG = "Server", "Limits", "Log"


@app.command()
def main(
    model_id: Annotated[
        str,
        typer.Option(
            envvar="MODEL_ID", help="Local directory or hub id of the model.", rich_help_panel=SERVER
        ),
    ],
    revision: Annotated[
        str | None,
        typer.Option(envvar="REVISION", help="Branch, tag or commit of a hub model.", rich_help_panel=SERVER),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(envvar="DTYPE", help="Of weights and KV cache.", rich_help_panel=SERVER)
    ] = None,
    hostname: Annotated[
        str, typer.Option(envvar="HOSTNAME", help="IP address to serve on.", rich_help_panel=SERVER)
    ] = "0.0.0.0",
    port: Annotated[
        int, typer.Option("--port", "-p", envvar="PORT", min=0, max=65535, rich_help_panel=SERVER)
    ] = 3000,
    shard_uds_path: Annotated[
        str,
        typer.Option(
            "--shard-uds-path",
            "--uds-path",
            envvar="SHARD_UDS_PATH",
            help="Socket between router and shard; the rank is appended.",
            rich_help_panel=SERVER,
        ),
    ] = "/tmp/text-generation-server",
    graceful_termination_timeout: Annotated[
        int,
        typer.Option(
            envvar="GRACEFUL_TERMINATION_TIMEOUT",
            min=1,
            help="Seconds that running answers have on SIGTERM, and then the shard.",
            rich_help_panel=SERVER,
        ),
    ] = 90,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            envvar="MAX_BATCH_SIZE",
            min=1,
            help="Requests in the static batch; also HF_BATCH_SIZE. The shard decides if not given.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_total_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="MAX_TOTAL_TOKENS",
            min=2,
            help="Tokens of prompt and answer; also HF_SEQUENCE_LENGTH. The shard decides if not given.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_input_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="MAX_INPUT_TOKENS",
            min=1,
            help="Tokens of the longest prompt. The shard decides if not given.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_batch_prefill_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="MAX_BATCH_PREFILL_TOKENS",
            min=1,
            help="Prompt tokens in one prefill. One longest prompt if not given.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    max_concurrent_requests: Annotated[
        int,
        typer.Option(
            envvar="MAX_CONCURRENT_REQUESTS",
            min=1,
            help="Requests that run or wait; more are refused with status 429.",
            rich_help_panel=LIMITS,
        ),
    ] = 128,
    max_best_of: Annotated[int, typer.Option(envvar="MAX_BEST_OF", min=1, rich_help_panel=LIMITS)] = 2,
    max_stop_sequences: Annotated[
        int, typer.Option(envvar="MAX_STOP_SEQUENCES", min=0, rich_help_panel=LIMITS)
    ] = 4,
    max_top_n_tokens: Annotated[
        int, typer.Option(envvar="MAX_TOP_N_TOKENS", min=0, rich_help_panel=LIMITS)
    ] = 5,
    payload_limit: Annotated[
        int, typer.Option(envvar="PAYLOAD_LIMIT", min=1, help="Bytes of a request.", rich_help_panel=LIMITS)
    ] = 2_000_000,
    validation_workers: Annotated[
        int,
        typer.Option(
            envvar="VALIDATION_WORKERS", min=1, help="Threads that tokenise prompts.", rich_help_panel=LIMITS
        ),
    ] = 2,
    json_output: Annotated[
        bool, typer.Option("--json-output", envvar="JSON_OUTPUT", help="Log as JSON.", rich_help_panel=LOG)
    ] = False,
    log_level: Annotated[
        str, typer.Option(envvar="LOG_LEVEL", help="Of launcher, router and shard.", rich_help_panel=LOG)
    ] = "INFO",
) -> None:
    """Serve a model over HTTP: starts the shard, waits until it is warm, and batches requests for it.

    Every option can also be given as an environment variable in capitals.
    """
    level = log_level.upper()
    try:
        if level not in LEVELS:
            raise InvalidSettingError(f"`--log-level {log_level}` must be one of {', '.join(LEVELS)}")
        router = RouterSettings(
            model_id=model_id,
            revision=revision,
            max_concurrent_requests=max_concurrent_requests,
            max_best_of=max_best_of,
            max_stop_sequences=max_stop_sequences,
            max_top_n_tokens=max_top_n_tokens,
            max_input_tokens=max_input_tokens,
            max_total_tokens=agreed("--max-total-tokens", max_total_tokens, "HF_SEQUENCE_LENGTH", os.environ),
            max_batch_prefill_tokens=max_batch_prefill_tokens,
            max_batch_size=agreed("--max-batch-size", max_batch_size, "HF_BATCH_SIZE", os.environ),
            payload_limit=payload_limit,
            validation_workers=validation_workers,
            compute_type=os.environ.get("COMPUTE_TYPE"),
        )
        check_lengths(router)
    except InvalidSettingError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    configure(level, json_output)
    settings = LauncherSettings(
        router=router,
        dtype=dtype.value if dtype else None,
        hostname=hostname,
        port=port,
        shard_uds_path=shard_uds_path,
        logger_level=level,
        graceful_termination_timeout=graceful_termination_timeout,
    )
    sys.exit(asyncio.run(launch(settings)))
