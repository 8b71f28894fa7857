"""The options of `tpu-tgi`, checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.router.settings import RouterSettings


@dataclass(frozen=True)
class LauncherSettings:
    """What the launcher itself needs; `router` holds the rest.

    Attributes:
        dtype: None leaves it to the shard.
        hostname: an IP address or `localhost`.
        shard_uds_path: the shard's socket is this path with `-0` appended.
        logger_level: for the shard, in capitals.
        graceful_termination_timeout: seconds that running answers have on SIGTERM, and then the shard.
    """

    router: RouterSettings
    dtype: str | None
    hostname: str
    port: int
    shard_uds_path: str
    logger_level: str
    graceful_termination_timeout: int

    @property
    def socket_path(self) -> str:
        """The stock launcher appends the rank of the shard; there is one shard."""
        return f"{self.shard_uds_path}-0"

    @property
    def is_local_model(self) -> bool:
        return Path(self.router.model_id).is_dir()


def agreed(flag: str, value: int | None, variable: str, environment: Mapping[str, str]) -> int | None:
    """The number given by an option, by a second environment variable, or by both alike.

    Raises InvalidSettingError if they contradict each other, or if the variable is not a positive integer.
    """
    text = environment.get(variable, "").strip()
    if not text:
        return value
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InvalidSettingError(
            f"`{variable}={text}` must be a positive integer, for example `{variable}=4`"
        )
    if value is not None and value != int(text):
        raise InvalidSettingError(
            f"`{flag} {value}` contradicts `{variable}={text}`: give one of them, or `{flag} {text}`"
        )
    return int(text)


def check_lengths(router: RouterSettings) -> None:
    """What can be seen to be wrong before a model is loaded. Raises InvalidSettingError."""
    longest, total = router.max_input_tokens, router.max_total_tokens
    if longest is not None and total is not None and longest >= total:
        raise InvalidSettingError(
            f"`--max-input-tokens {longest}` must be < `--max-total-tokens {total}`: {total - 1} would work"
        )
    prefill = router.max_batch_prefill_tokens
    if longest is not None and prefill is not None and longest > prefill:
        raise InvalidSettingError(
            f"`--max-batch-prefill-tokens {prefill}` must be >= `--max-input-tokens {longest}`: "
            f"{longest} would work"
        )
