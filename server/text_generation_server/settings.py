"""Flags and environment variables -> one validated object (the launcher's contract, protocol section 6)."""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.errors import InvalidSettingError
from text_generation_server.model.quantisation.scheme import MADE, STORED
from text_generation_server.sampling.parameters import WatermarkStrength

T = TypeVar("T")

DTYPES = ("float16", "bfloat16", "float32")
CPU_BATCH_SIZE = 4
"""The batch of a CPU if nobody chose one: more slots make each step of a CPU slower."""

CHUNKS = (32, 64, 128, 256, 512, 1024)
"""Tokens that the largest piece of a prompt may have."""

CPU_CHUNK, ACCELERATOR_CHUNK = 128, 512
"""The one of a CPU, where more tokens hardly cost less each, and of an accelerator, which reads all weights for a
piece, however small (docs/prompts.md)."""

MOST_DRAFTS = 16
"""Of --speculate. Each one more is computed for every slot in each step with drafts, and is right more rarely."""

MOST_STEPS = 16
"""That one program may take without the host: the rest of the host's work on a step is a sixteenth then. All of them
must be fewer than the tokens of the smallest piece, see `engine.rings`."""

DEFAULT_HANG_SECONDS = 300.0
LONGEST_SOCKET_PATH = 107
"""Bytes in `sun_path` of a Linux unix socket address, less the final zero."""


@dataclass(frozen=True)
class ServeFlags:
    """The options of `serve`, as the launcher passes them; None means not given."""

    uds_path: str = "/tmp/text-generation-server"
    revision: str | None = None
    sharded: bool = False
    quantize: str | None = None
    speculate: int | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    max_input_tokens: int | None = None
    otlp_endpoint: str | None = None
    otlp_service_name: str = "text-generation-inference.server"
    compile_cache: str | None = None
    hang_timeout: float | None = None
    prefill_chunk: int | None = None
    steps_per_answer: int | None = None
    metrics_port: int | None = None
    num_shard: int | None = None


@dataclass(frozen=True)
class AdapterSource:
    """A LoRA adapter to load.

    Attributes:
        name: what requests call it.
        source: a local directory, or the name of a repository on the hub.
        revision: branch, tag or commit on the hub; None is the default branch.
    """

    name: str
    source: str
    revision: str | None = None


@dataclass(frozen=True)
class Settings:
    """What the shard is asked to serve, and in which static shape.

    Attributes:
        model_id: a local directory, or the name of a repository on the hub.
        revision: branch, tag or commit on the hub; None is the default branch.
        dtype: of the weights, one of DTYPES; None leaves it to the engine.
        quantize: in what linear layers are kept, see `quantisation.scheme`; None: as they come.
        uds_path: without the rank; see `socket_path`.
        batch_size: number of slots, B; None: 4 on a CPU, the largest that fits on an accelerator.
        max_length: tokens of one slot, prompt and output together, T; None: min(2048, what the model allows).
        max_input_tokens: longest prompt; None leaves it to the warm-up. Below max_length.
        skip_warmup: debugging only: programs are compiled when they are first needed.
        prompt_logprobs: give the logprobs of prompts to requests that ask for them.
        watermark: strength of the watermarks that requests ask for.
        otlp_endpoint: of a collector of OpenTelemetry traces; None: make none.
        otlp_service_name: under which traces are sent.
        adapters: LoRA adapters that requests may choose.
        compile_cache: keeps compiled programs for the next start; None keeps none.
        hang_seconds: after so long a call of the device counts as hanging.
        prefill_chunk: tokens of the largest piece of a prompt; None: CPU_CHUNK or ACCELERATOR_CHUNK.
        steps_per_answer: that the device may take without the host; 0: none; None: what suits model and device.
        metrics_port: for Prometheus; None: no metrics.
        speculate: tokens of each request that one step may verify; 0: none.
        chips: of this host that share the model; None: all.
        cache_dtype: of keys and values; None: that of the model.
    """

    model_id: str
    revision: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    uds_path: str = ServeFlags.uds_path
    batch_size: int | None = None
    max_length: int | None = None
    max_input_tokens: int | None = None
    skip_warmup: bool = False
    prompt_logprobs: bool = False
    watermark: WatermarkStrength = field(default_factory=WatermarkStrength)
    otlp_endpoint: str | None = None
    otlp_service_name: str = ServeFlags.otlp_service_name
    adapters: tuple[AdapterSource, ...] = ()
    compile_cache: Path | None = None
    hang_seconds: float = DEFAULT_HANG_SECONDS
    prefill_chunk: int | None = None
    steps_per_answer: int | None = None
    metrics_port: int | None = None
    chips: int | None = None
    speculate: int = 0
    cache_dtype: CacheDtype | None = None

    def __post_init__(self) -> None:
        """Raises InvalidSettingError for a value, or a combination, that cannot be honoured."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InvalidSettingError(f"--dtype must be one of {', '.join(DTYPES)}. Given: {self.dtype}")
        if self.quantize is not None and self.quantize not in (*MADE, *STORED):
            raise InvalidSettingError(
                f"--quantize must be one of {', '.join((*MADE, *STORED))}. Given: {self.quantize}. The launcher "
                "passes it unasked when config.json has a quantization_config: then use another checkpoint"
            )
        if len(self.socket_path.encode()) > LONGEST_SOCKET_PATH:
            raise InvalidSettingError(
                f"--uds-path is too long for a unix socket: {self.socket_path} has more than "
                f"{LONGEST_SOCKET_PATH} bytes. Use a shorter one, for example {ServeFlags.uds_path}"
            )
        if self.max_length is not None:
            self.check_max_input_tokens(self.max_length)

    @property
    def socket_path(self) -> str:
        """Where the shard listens: the launcher appends the rank, and one process is always rank 0."""
        return f"{self.uds_path}-0"

    def check_max_input_tokens(self, max_length: int) -> None:
        """Raises InvalidSettingError if the longest prompt leaves no room for one new token."""
        if self.max_input_tokens is not None and self.max_input_tokens >= max_length:
            raise InvalidSettingError(
                f"--max-input-tokens ({self.max_input_tokens}) must be less than the sequence length "
                f"({max_length}, from HF_SEQUENCE_LENGTH or --max-total-tokens): a prompt needs room for at "
                f"least one new token. Use --max-input-tokens {max_length - 1} or less"
            )


def read_settings(model_id: str, flags: ServeFlags, environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment.

    Raises InvalidSettingError for what contradicts itself, is malformed, or is not supported and would
    change results if it were ignored.
    """
    refuse_unsupported(flags, environment)
    max_input_tokens = flags.max_input_tokens
    if max_input_tokens is None:
        # Launchers that do not pass the flag still hand down the variable that their user set; before
        # 2.0 it had the second name.
        max_input_tokens = one_integer(environment, "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH")
    elif max_input_tokens < 1:
        raise InvalidSettingError(f"--max-input-tokens must be at least 1. Given: {max_input_tokens}")
    return Settings(
        model_id=model_id,
        revision=flags.revision,
        dtype=flags.dtype,
        quantize=flags.quantize,
        uds_path=flags.uds_path,
        batch_size=one_integer(environment, "HF_BATCH_SIZE", "MAX_BATCH_SIZE"),
        max_length=one_integer(environment, "HF_SEQUENCE_LENGTH", "MAX_TOTAL_TOKENS"),
        max_input_tokens=max_input_tokens,
        skip_warmup=is_set(environment, "SKIP_WARMUP"),
        prompt_logprobs=is_set(environment, "REQUEST_LOGPROBS"),
        watermark=watermark(environment),
        otlp_endpoint=flags.otlp_endpoint,
        otlp_service_name=flags.otlp_service_name,
        adapters=lora_adapters(environment.get("LORA_ADAPTERS", "")),
        compile_cache=compile_cache(flags.compile_cache, environment),
        hang_seconds=hang_seconds(flags.hang_timeout, environment),
        prefill_chunk=prefill_chunk(flags.prefill_chunk, environment),
        steps_per_answer=steps_per_answer(flags.steps_per_answer, environment),
        metrics_port=metrics_port(flags.metrics_port, environment),
        chips=chips(flags.num_shard, environment),
        speculate=speculate(flags.speculate),
        cache_dtype=cache_dtype(flags.kv_cache_dtype, environment),
    )


def refuse_unsupported(flags: ServeFlags, environment: Mapping[str, str]) -> None:
    """Raises InvalidSettingError for the first wish that would change results and cannot be fulfilled."""
    if flags.sharded or environment.get("WORLD_SIZE", "1") not in ("", "1"):
        raise InvalidSettingError(
            "More than one shard is not supported: one process drives all chips of this host. Start TGI's own launcher "
            "with --num-shard 1 (without it, it counts the devices in CUDA_VISIBLE_DEVICES), and set HF_NUM_CHIPS for "
            "fewer chips than all"
        )
    for name, flag in (("ROPE_SCALING", "--rope-scaling"), ("ROPE_FACTOR", "--rope-factor")):
        if environment.get(name):
            raise InvalidSettingError(
                f"{name}={environment[name]} ({flag}) is not supported. Leave it out, and set "
                "rope_parameters in the model's config.json instead"
            )


def one_integer(environment: Mapping[str, str], first: str, second: str) -> int | None:
    """The positive integer that two variables mean; None if neither is set.

    Raises InvalidSettingError if one is not a positive integer, or both are set and differ.
    """
    values = {
        name: positive_integer(name, environment[name]) for name in (first, second) if environment.get(name)
    }
    if len(set(values.values())) > 1:
        raise InvalidSettingError(
            f"{first}={values[first]} and {second}={values[second]} mean the same and differ. Set one of "
            "them, or both to the same value"
        )
    return next(iter(values.values()), None)


def lora_adapters(value: str) -> tuple[AdapterSource, ...]:
    """LORA_ADAPTERS, in TGI's format: several of `source` or `name=source`, each with `@revision` or without.

    Raises InvalidSettingError for what has another format, and for names that occur twice.
    """
    adapters: list[AdapterSource] = []
    for part in value.split(",") if value else []:
        match = re.fullmatch(r"([^=@]+)(?:=([^=@]+))?(?:@([^=@]+))?", part.strip())
        if match is None:
            raise InvalidSettingError(
                f"LORA_ADAPTERS (--lora-adapters) has {part.strip()!r}, which is not of the form source, "
                f"name=source or name=source@revision, for example sql=/adapters/sql. Given: {value}"
            )
        name, source, revision = match.groups()
        if name in [other.name for other in adapters]:
            raise InvalidSettingError(
                f"LORA_ADAPTERS (--lora-adapters) names {name} twice. Give the second another name: "
                f"{name}-2={source or name}"
            )
        adapters.append(AdapterSource(name, source or name, revision))
    return tuple(adapters)


def watermark(environment: Mapping[str, str]) -> WatermarkStrength:
    """WATERMARK_GAMMA and WATERMARK_DELTA, by default 0.5 and 2, as TGI has them.

    Raises InvalidSettingError for a gamma that is not between 0 and 1, or a delta that is no number.
    """
    gamma = number("WATERMARK_GAMMA", environment.get("WATERMARK_GAMMA") or str(WatermarkStrength().gamma))
    delta = number("WATERMARK_DELTA", environment.get("WATERMARK_DELTA") or str(WatermarkStrength().delta))
    if not 0 < gamma < 1:
        raise InvalidSettingError(f"WATERMARK_GAMMA must be between 0 and 1, for example 0.5. Given: {gamma}")
    return WatermarkStrength(gamma, delta)


def compile_cache(flag: str | None, environment: Mapping[str, str]) -> Path | None:
    """--compile-cache or TPU_TGI_COMPILE_CACHE: a directory, or "off"; by default the user's cache directory."""
    given = flag or environment.get("TPU_TGI_COMPILE_CACHE")
    if given is not None and given.lower() == "off":
        return None
    if given:
        return Path(given).expanduser()
    user_cache = environment.get("XDG_CACHE_HOME") or os.path.join(
        environment.get("HOME") or os.path.expanduser("~"), ".cache"
    )
    return Path(user_cache) / "tpu-tgi"


def hang_seconds(flag: float | None, environment: Mapping[str, str]) -> float:
    """--hang-timeout or TPU_TGI_HANG_TIMEOUT. InvalidSettingError unless it is a number above 0."""
    name, given = given_as("--hang-timeout", flag, "TPU_TGI_HANG_TIMEOUT", environment, number)
    if given is None:
        return DEFAULT_HANG_SECONDS
    if not 0 < given < math.inf:
        raise InvalidSettingError(
            f"{name} must be more than 0 seconds, for example {DEFAULT_HANG_SECONDS:.0f}. Given: {given:g}"
        )
    return given


def chips(flag: int | None, environment: Mapping[str, str]) -> int | None:
    """--num-shard or HF_NUM_CHIPS. InvalidSettingError unless it is a positive integer, and the same in both."""
    name = "HF_NUM_CHIPS"
    given = positive_integer(name, environment[name]) if environment.get(name) else None
    if flag is None:
        return given
    if flag < 1:
        raise InvalidSettingError(f"--num-shard must be at least 1. Given: {flag}")
    if given not in (None, flag):
        raise InvalidSettingError(
            f"--num-shard {flag} and {name}={given} mean the same and differ. Set one of them, or both to the same "
            "value"
        )
    return flag


def prefill_chunk(flag: int | None, environment: Mapping[str, str]) -> int | None:
    """--prefill-chunk or TPU_TGI_PREFILL_CHUNK. InvalidSettingError unless it is a power of two in CHUNKS."""
    name, given = given_as("--prefill-chunk", flag, "TPU_TGI_PREFILL_CHUNK", environment, positive_integer)
    if given is not None and given not in CHUNKS:
        raise InvalidSettingError(
            f"{name} must be a power of two from {CHUNKS[0]} to {CHUNKS[-1]}, for example {ACCELERATOR_CHUNK}. "
            f"Given: {given}"
        )
    return given


def steps_per_answer(flag: int | None, environment: Mapping[str, str]) -> int | None:
    """--steps-per-answer or TPU_TGI_STEPS_PER_ANSWER. InvalidSettingError unless it is from 0 to MOST_STEPS."""
    name, given = "--steps-per-answer", None if flag is None else str(flag)
    if given is None:
        name = "TPU_TGI_STEPS_PER_ANSWER"
        given = environment.get(name) or None
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and int(given) <= MOST_STEPS):
        raise InvalidSettingError(
            f"{name} must be from 0 (one at a time) to {MOST_STEPS}, for example {MOST_STEPS}. Given: {given}"
        )
    return int(given)


def speculate(flag: int | None) -> int:
    """--speculate. InvalidSettingError unless it is from 0 to MOST_DRAFTS."""
    if flag is not None and not 0 <= flag <= MOST_DRAFTS:
        raise InvalidSettingError(
            f"--speculate must be from 0 (off) to {MOST_DRAFTS}, for example 4. Given: {flag}"
        )
    return flag or 0


def cache_dtype(flag: str | None, environment: Mapping[str, str]) -> CacheDtype | None:
    """--kv-cache-dtype or TPU_TGI_KV_CACHE_DTYPE. InvalidSettingError unless it is one of CacheDtype."""
    name, given = given_as(
        "--kv-cache-dtype", flag, "TPU_TGI_KV_CACHE_DTYPE", environment, lambda _, value: value
    )
    if given is None:
        return None
    if given not in list(CacheDtype):
        raise InvalidSettingError(
            f"{name} must be one of {', '.join(CacheDtype)}, or be left out: then the KV cache has the dtype of the "
            f"model. Given: {given}"
        )
    return CacheDtype(given)


def metrics_port(flag: int | None, environment: Mapping[str, str]) -> int | None:
    """--metrics-port or TPU_TGI_METRICS_PORT. InvalidSettingError unless it is a port."""
    name, given = given_as("--metrics-port", flag, "TPU_TGI_METRICS_PORT", environment, positive_integer)
    if given is not None and not 1 <= given <= 65535:
        raise InvalidSettingError(f"{name} must be a port from 1 to 65535, for example 9400. Given: {given}")
    return given


def given_as(
    flag: str,
    value: T | None,
    variable: str,
    environment: Mapping[str, str],
    parse: Callable[[str, str], T],
) -> tuple[str, T | None]:
    """A setting, and the name that a refusal of it should have: the flag's, or else the variable's.

    `parse` makes a value of the variable's name and text; one that is empty counts as not set.
    """
    if value is not None:
        return flag, value
    text = environment.get(variable)
    return variable, parse(variable, text) if text else None


def number(name: str, value: str) -> float:
    try:
        parsed = float(value)
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed):
        raise InvalidSettingError(f"{name} must be a number. Given: {value}")
    return parsed


def positive_integer(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise InvalidSettingError(f"{name} must be an integer of at least 1. Given: {value}")
    return int(value)


def is_set(environment: Mapping[str, str], name: str) -> bool:
    """TGI's rule for switches: "1" and "true", in any case, are on."""
    return environment.get(name, "").lower() in ("1", "true")
