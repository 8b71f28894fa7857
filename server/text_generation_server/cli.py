"""`text-generation-server`: the two commands that the TGI launcher starts (protocol sections 6.1 and 6.2)."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from loguru import logger

from text_generation_server.errors import InvalidSettingError, UnsupportedModelError
from text_generation_server.hub import ignore_hf_transfer, model_directory
from text_generation_server.settings import ServeFlags, read_settings
from text_generation_server.telemetry import configure_logging

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

ModelId = Annotated[str, typer.Argument(help="A local directory, or the name of a model on the hub.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Accepted; code from a model's repository is never run.")
]
LoggerLevel = Annotated[str, typer.Option(help="TRACE, DEBUG, INFO, WARN, ERROR or OFF.")]
JsonOutput = Annotated[bool, typer.Option("--json-output", help="Log in JSON, as the launcher reads it.")]


@app.command()
def serve(
    model_id: ModelId,
    uds_path: Annotated[
        str, typer.Option(help="The socket's path without the rank: -0 is appended.")
    ] = ServeFlags.uds_path,
    revision: Revision = None,
    sharded: Annotated[bool, typer.Option("--sharded", help="Not supported: see --num-shard.")] = False,
    num_shard: Annotated[
        int | None,
        typer.Option(help="Chips that share the model; all of this host by default. Also HF_NUM_CHIPS."),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Keep linear layers in fewer bits: int8 (also as eetq or bitsandbytes) or fp8, made while the weights "
            "are loaded. gptq, awq, compressed-tensors and fp8 may also name what a checkpoint comes as."
        ),
    ] = None,
    speculate: Annotated[
        int | None,
        typer.Option(help="Tokens that a step may draft and verify for each request, 0 to 8; 0 is off."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or float32; by default what suits the device.")
    ] = None,
    kv_cache_dtype: Annotated[
        str | None,
        typer.Option(
            help="fp8_e4m3fn, fp8_e5m2 or int8: keep keys and values in one byte for a number; by default in the "
            "dtype of the model. Also TPU_TGI_KV_CACHE_DTYPE."
        ),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    max_input_tokens: Annotated[int | None, typer.Option(help="The longest prompt.")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Send OpenTelemetry traces to this collector (gRPC).")
    ] = None,
    otlp_service_name: Annotated[
        str, typer.Option(help="The name under which they are sent.")
    ] = ServeFlags.otlp_service_name,
    compile_cache: Annotated[
        str | None,
        typer.Option(
            help="Directory that keeps compiled programs for the next start, or off; by default tpu-tgi in the "
            "user's cache directory. Also TPU_TGI_COMPILE_CACHE."
        ),
    ] = None,
    hang_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a call of the device counts as hanging, and health checks fail; 300 by "
            "default. Also TPU_TGI_HANG_TIMEOUT."
        ),
    ] = None,
    prefill_chunk: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the largest piece in which prompts are computed, a power of two; 128 on a CPU and 512 on "
            "an accelerator by default. Running requests wait for one piece at a time. Also TPU_TGI_PREFILL_CHUNK."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Serve Prometheus metrics on this port. Also TPU_TGI_METRICS_PORT."),
    ] = None,
    logger_level: LoggerLevel = "INFO",
    json_output: JsonOutput = False,
) -> None:
    """Serve a model on a unix socket to a TGI router.

    The static shape comes from the environment: HF_BATCH_SIZE or MAX_BATCH_SIZE (if not set, 4 on a CPU and what
    fits on an accelerator), and HF_SEQUENCE_LENGTH or MAX_TOTAL_TOKENS (what the model allows, at most 2048, if not
    set).
    LORA_ADAPTERS has the LoRA adapters that requests may choose: several, with commas, of id, name=directory
    or name=id@revision.
    SKIP_WARMUP=1, for debugging only, compiles each program when it is first needed.
    """
    with errors_end_the_process():
        configure_logging(logger_level, json_output=json_output)
        settings = read_settings(
            model_id,
            ServeFlags(
                uds_path=uds_path,
                revision=revision,
                sharded=sharded,
                num_shard=num_shard,
                quantize=quantize,
                speculate=speculate,
                dtype=dtype,
                kv_cache_dtype=kv_cache_dtype,
                max_input_tokens=max_input_tokens,
                otlp_endpoint=otlp_endpoint,
                otlp_service_name=otlp_service_name,
                compile_cache=compile_cache,
                hang_timeout=hang_timeout,
                prefill_chunk=prefill_chunk,
                metrics_port=metrics_port,
            ),
            os.environ,
        )
        if trust_remote_code:
            logger.warning(
                "--trust-remote-code: code from a model's repository is never run, with or without it"
            )
        # Not earlier, so that `--help` and downloads stay quick.
        from text_generation_server.shard import serve as serve_shard

        exit_code = serve_shard(settings)
    # Not sys.exit: a device call that outlived its grace, or a broken runtime, must not hold the process up.
    end_process(exit_code)


@app.command()
def download_weights(
    model_id: ModelId,
    revision: Revision = None,
    extension: Annotated[str, typer.Option(help="Only .safetensors is supported.")] = ".safetensors",
    trust_remote_code: TrustRemoteCode = False,
    merge_lora: Annotated[
        bool,
        typer.Option(
            "--merge-lora",
            help="Accepted; a LoRA adapter is loaded beside its model, and never merged into it.",
        ),
    ] = False,
    logger_level: LoggerLevel = "INFO",
    json_output: JsonOutput = False,
) -> None:
    """Download a model or a LoRA adapter from the hub, unless it is a local directory or cached."""
    with errors_end_the_process():
        configure_logging(logger_level, json_output=json_output)
        if extension != ".safetensors":
            raise InvalidSettingError(f"--extension must be .safetensors. Given: {extension}")
        ignore_hf_transfer()
        directory = model_directory(model_id, revision, os.environ, or_adapter=True)
        logger.info("{} is in {}", model_id, directory)


@contextmanager
def errors_end_the_process() -> Iterator[None]:
    """Ends the process with exit code 1 for any error: one line for what a user can change, else a traceback.

    They go to stdout for the launcher's log and to stderr, which the launcher prints at the end.
    """
    try:
        yield
    except (InvalidSettingError, UnsupportedModelError) as error:
        logger.error("{}", error)
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - the terminal is the user's log
        end_process(1)
    except Exception as error:  # noqa: BLE001 - logged whole, and the process ends
        logger.opt(exception=error).error("The server failed")
        traceback.print_exception(error)
        end_process(1)


def end_process(exit_code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    app()
