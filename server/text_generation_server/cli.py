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

ModelId = Annotated[
    str, typer.Argument(help="Local directory of the model, or its name on the Hugging Face hub.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Accepted and ignored: code from a model's repository is never run."
    ),
]
LoggerLevel = Annotated[str, typer.Option(help="Log level: TRACE, DEBUG, INFO, WARN, ERROR or OFF.")]
JsonOutput = Annotated[bool, typer.Option("--json-output", help="Log in JSON, which the launcher reads.")]


@app.command()
def serve(
    model_id: ModelId,
    uds_path: Annotated[
        str, typer.Option(help="Path of the unix socket; -0 is appended, the rank of this shard.")
    ] = ServeFlags.uds_path,
    revision: Revision = None,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="Not supported: one process drives all chips; see --num-shard.")
    ] = False,
    num_shard: Annotated[
        int | None,
        typer.Option(
            help="Number of chips that share the model; all of this host by default. Also HF_NUM_CHIPS."
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Format of linear layers: int8 (also eetq, bitsandbytes) or fp8 convert them while the weights are "
            "loaded; gptq, awq, compressed-tensors and fp8 describe a model that is quantized already."
        ),
    ] = None,
    speculate: Annotated[
        int | None,
        typer.Option(
            help="Number of tokens that a step may draft and verify for each request, 0 to 16; 0 is off."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Data type of weights and KV cache: float16, bfloat16 or float32; by default bfloat16 on a TPU, "
            "float32 on a CPU."
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        str | None,
        typer.Option(
            help="Data type of the KV cache: fp8_e4m3fn, fp8_e5m2 or int8; by default that of the model. "
            "Also TPU_TGI_KV_CACHE_DTYPE."
        ),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    max_input_tokens: Annotated[int | None, typer.Option(help="Maximum length of a prompt.")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Address of an OpenTelemetry collector for traces (gRPC).")
    ] = None,
    otlp_service_name: Annotated[
        str, typer.Option(help="Service name in traces.")
    ] = ServeFlags.otlp_service_name,
    compile_cache: Annotated[
        str | None,
        typer.Option(
            help="Directory of compiled programs, which the next start loads, or off; by default ~/.cache/tpu-tgi. "
            "Also TPU_TGI_COMPILE_CACHE."
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
            help="Maximum length of the pieces in which prompts are computed, in tokens: a power of two; by default "
            "128 on a CPU, 512 on an accelerator. Running requests wait for one piece at a time. "
            "Also TPU_TGI_PREFILL_CHUNK."
        ),
    ] = None,
    steps_per_answer: Annotated[
        int | None,
        typer.Option(
            help="Decode steps that the device may take without the host, 0 to 16, while that pays; by default 16 for "
            "small models on an accelerator, else 0. Also TPU_TGI_STEPS_PER_ANSWER."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Port of a Prometheus endpoint of the shard; none by default. Also TPU_TGI_METRICS_PORT."
        ),
    ] = None,
    logger_level: LoggerLevel = "INFO",
    json_output: JsonOutput = False,
) -> None:
    """Serve a model to a TGI router, on a unix socket.

    HF_BATCH_SIZE or MAX_BATCH_SIZE: number of requests that run at once; by default 4 on a CPU, else what fits.

    HF_SEQUENCE_LENGTH or MAX_TOTAL_TOKENS: maximum length of prompt and answer; by default the model's, at most 2048.

    LORA_ADAPTERS: LoRA adapters as id, name=directory or name=id@revision, separated by commas.

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
                steps_per_answer=steps_per_answer,
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
    extension: Annotated[
        str, typer.Option(help="Extension of the weight files; only .safetensors is supported.")
    ] = ".safetensors",
    trust_remote_code: TrustRemoteCode = False,
    merge_lora: Annotated[
        bool,
        typer.Option(
            "--merge-lora",
            help="Accepted and ignored: a LoRA adapter is loaded beside its model, not merged into it.",
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
