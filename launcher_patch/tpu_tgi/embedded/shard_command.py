"""How `text-generation-server` is called: the contract of the stock launcher."""

import os

from tpu_tgi.embedded.settings import LauncherSettings


def serve_arguments(settings: LauncherSettings, model: str, uds_path: str) -> list[str]:
    """What the stock launcher passes (protocol section 6.2), as far as it was given.

    Args:
        model: the directory of the model, in which its revision is settled.
    """
    arguments = ["serve", model, "--uds-path", uds_path]
    arguments += ["--logger-level", settings.logger_level, "--json-output"]
    for name, value in (
        ("--dtype", settings.dtype),
        ("--quantize", settings.quantize),
        ("--speculate", settings.speculate),
        ("--max-input-tokens", settings.router.max_input_tokens),
        ("--otlp-endpoint", settings.otlp_endpoint),
        ("--otlp-service-name", settings.otlp_service_name),
    ):
        if value is not None:
            arguments += [name, str(value)]
    return arguments + remote_code(settings)


def download_arguments(settings: LauncherSettings) -> list[str]:
    """What the stock launcher passes before it serves (protocol section 6.1)."""
    arguments = ["download-weights", settings.router.model_id, "--extension", ".safetensors"]
    arguments += ["--logger-level", settings.logger_level, "--json-output"]
    if settings.router.revision is not None:
        arguments += ["--revision", settings.router.revision]
    return arguments + remote_code(settings)


def remote_code(settings: LauncherSettings) -> list[str]:
    return ["--trust-remote-code"] if settings.trust_remote_code else []


def shard_environment(settings: LauncherSettings) -> dict[str, str]:
    """The launcher's own environment and what the stock launcher adds (protocol section 6.3)."""
    environment = dict(os.environ)
    environment.pop("LOG_LEVEL", None)
    environment |= added_variables(settings)
    if "HF_API_TOKEN" in environment:
        environment["HF_TOKEN"] = environment["HF_API_TOKEN"]
    return environment


def added_variables(settings: LauncherSettings) -> dict[str, str]:
    """What is set for the shard."""
    added = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    added["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for name, value in (
        ("MAX_TOTAL_TOKENS", settings.router.max_total_tokens),
        ("MAX_BATCH_SIZE", settings.router.max_batch_size),
        ("HF_NUM_CHIPS", settings.chips),
    ):
        if value is not None:
            added[name] = str(value)
    return added | dict(settings.shard_variables)
