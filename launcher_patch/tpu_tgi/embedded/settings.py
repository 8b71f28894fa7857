"""What the embedded launcher is told."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.logs import level_of
from tpu_tgi.options.command import Choices
from tpu_tgi.options.key_file import read_keys
from tpu_tgi.options.stock_only import refuse_stock_only
from tpu_tgi.options.table import Page
from tpu_tgi.parameters.derivation import Parameters
from tpu_tgi.router.settings import RouterSettings


@dataclass(frozen=True)
class LauncherSettings:
    """What the launcher itself needs; `router` holds the rest.

    Attributes:
        dtype, quantize, speculate, chips: None leaves it to the shard.
        hostname: an IP address or `localhost`.
        trust_remote_code: handed to the shard, which says that it is without effect.
        otlp_endpoint, otlp_service_name: for the traces of shard and router; None for the name is each one's own.
        shard_variables: what the shard reads from its environment beside the two numbers.
        shard_uds_path: the shard's socket is this path with `-0` appended; None is a private directory.
        logger_level: for the shard, in capitals.
        graceful_termination_timeout: seconds that running answers have on SIGTERM, and then the shard.
    """

    router: RouterSettings
    dtype: str | None
    quantize: str | None
    speculate: int | None
    chips: int | None
    trust_remote_code: bool
    otlp_endpoint: str | None
    otlp_service_name: str | None
    shard_variables: Mapping[str, str]
    hostname: str
    port: int
    shard_uds_path: str | None
    logger_level: str
    graceful_termination_timeout: int

    @property
    def is_local_model(self) -> bool:
        return Path(self.router.model_id).is_dir()


def launcher_settings(choices: Choices, parameters: Parameters) -> LauncherSettings:
    """The settings of the embedded launcher and router; every other option goes into the router's field of its name.

    Raises InvalidSettingError for an option that only the stock launcher serves, or an unknown level of the log.
    """
    refuse_stock_only(choices)
    values = choices.values
    router = {field.name: values[field.name] for field in fields(RouterSettings) if field.name in values} | {
        "max_input_tokens": parameters.max_input_tokens,
        "max_total_tokens": parameters.sequence_length,
        "max_batch_prefill_tokens": parameters.max_batch_prefill_tokens,
        "max_batch_size": parameters.batch_size,
        "max_concurrent_requests": parameters.max_concurrent_requests,
        "api_keys": read_keys(values["api_key_file"]),
        "cors_allow_origin": tuple(values["cors_allow_origin"]),
        "page": values["page"] is Page.ON,
        "compute_type": compute_type(choices.environment.get("COMPUTE_TYPE")),
    }
    return LauncherSettings(
        router=RouterSettings(**router),
        dtype=values["dtype"].value if values["dtype"] else None,
        quantize=values["quantize"],
        speculate=values["speculate"],
        chips=parameters.chips,
        trust_remote_code=values["trust_remote_code"],
        otlp_endpoint=values["otlp_endpoint"],
        otlp_service_name=values["otlp_service_name"],
        shard_variables=choices.shard_variables,
        hostname=values["hostname"],
        port=values["port"],
        shard_uds_path=values["shard_uds_path"],
        logger_level=level_of(values["log_level"]),
        graceful_termination_timeout=values["graceful_termination_timeout"],
    )


def compute_type(given: str | None) -> str | None:
    """Goes into a header of each answer. Raises InvalidSettingError for what cannot stand there."""
    if given is not None and not (given.isascii() and given.isprintable()):
        raise InvalidSettingError(
            f"`COMPUTE_TYPE={given}` must be printable ASCII, as a header is: `COMPUTE_TYPE=1-tpu` would work"
        )
    return given
