"""The static shape from flags and environment, and refusals of what would silently change results."""

from pathlib import Path
from typing import Any

import pytest

from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.errors import InvalidSettingError
from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.settings import AdapterSource, ServeFlags, Settings, read_settings


def settings(environment: dict[str, str] | None = None, **flags: Any) -> Settings:
    return read_settings("some/model", ServeFlags(**flags), environment or {})


def test_nothing_given_means_four_slots_of_what_the_model_allows() -> None:
    assert (settings().batch_size, settings().max_length, settings().max_input_tokens) == (None, None, None)
    assert settings().socket_path == "/tmp/text-generation-server-0"


@pytest.mark.parametrize("batch_size", ["HF_BATCH_SIZE", "MAX_BATCH_SIZE"])
@pytest.mark.parametrize("max_length", ["HF_SEQUENCE_LENGTH", "MAX_TOTAL_TOKENS"])
def test_either_name_gives_the_shape(batch_size: str, max_length: str) -> None:
    read = settings({batch_size: "8", max_length: "512"})
    assert (read.batch_size, read.max_length) == (8, 512)


def test_both_names_may_agree() -> None:
    assert settings({"HF_BATCH_SIZE": "8", "MAX_BATCH_SIZE": "8"}).batch_size == 8


@pytest.mark.parametrize(
    ("first", "second"), [("HF_BATCH_SIZE", "MAX_BATCH_SIZE"), ("HF_SEQUENCE_LENGTH", "MAX_TOTAL_TOKENS")]
)
def test_a_contradiction_is_refused_with_both_names_and_values(first: str, second: str) -> None:
    with pytest.raises(InvalidSettingError) as refusal:
        settings({first: "64", second: "65"})
    assert f"{first}=64" in str(refusal.value)
    assert f"{second}=65" in str(refusal.value)


@pytest.mark.parametrize("value", ["0", "-1", "4.5", "four", "1e3", " "])
@pytest.mark.parametrize(
    "name", ["HF_BATCH_SIZE", "MAX_BATCH_SIZE", "HF_SEQUENCE_LENGTH", "MAX_TOTAL_TOKENS"]
)
def test_what_is_not_a_positive_integer_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"{name} must be an integer of at least 1. Given: {value}"):
        settings({name: value})


def test_an_empty_variable_is_not_set() -> None:
    assert settings({"HF_BATCH_SIZE": "", "MAX_TOTAL_TOKENS": ""}).batch_size is None


def test_the_longest_prompt_leaves_room_for_a_token() -> None:
    assert settings({"MAX_TOTAL_TOKENS": "512"}, max_input_tokens=511).max_input_tokens == 511
    with pytest.raises(InvalidSettingError, match=r"--max-input-tokens \(512\) .* 511 or less"):
        settings({"MAX_TOTAL_TOKENS": "512"}, max_input_tokens=512)


@pytest.mark.parametrize(("value", "allowed"), [("1", True), ("True", True), ("0", False), ("", False)])
def test_prompt_logprobs_are_given_only_if_the_launcher_allows_them(value: str, allowed: bool) -> None:
    assert settings({"REQUEST_LOGPROBS": value}).prompt_logprobs is allowed
    assert settings({}).prompt_logprobs is False


def test_the_strength_of_watermarks_comes_from_the_launchers_environment() -> None:
    assert settings({"WATERMARK_GAMMA": "0.25", "WATERMARK_DELTA": "4"}).watermark == WatermarkStrength(
        0.25, 4.0
    )
    assert settings({}).watermark == WatermarkStrength(0.5, 2.0)


def test_the_dtype_of_the_cache_comes_from_the_stock_launchers_flag_or_our_variable() -> None:
    assert settings({}).cache_dtype is None
    assert settings({}, kv_cache_dtype="fp8_e5m2").cache_dtype is CacheDtype.FP8_E5M2
    assert settings({"TPU_TGI_KV_CACHE_DTYPE": "int8"}).cache_dtype is CacheDtype.INT8


@pytest.mark.parametrize("name", ["MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"])
def test_the_longest_prompt_may_come_from_the_launchers_environment_and_a_flag_wins(name: str) -> None:
    assert settings({name: "100"}).max_input_tokens == 100
    assert settings({name: "100"}, max_input_tokens=50).max_input_tokens == 50


@pytest.mark.parametrize(
    ("environment", "flags", "named"),
    [
        ({}, {"quantize": "exl2"}, ["--quantize", "int8, eetq", "exl2", "quantization_config"]),
        ({}, {"quantize": "bitsandbytes-nf4"}, ["--quantize", "bitsandbytes-nf4"]),
        ({}, {"speculate": -1}, ["--speculate", "0 (off) to 16", "-1"]),
        ({}, {"kv_cache_dtype": "fp8"}, ["--kv-cache-dtype", "fp8_e4m3fn, fp8_e5m2, int8", "Given: fp8"]),
        ({"TPU_TGI_KV_CACHE_DTYPE": "int4"}, {}, ["TPU_TGI_KV_CACHE_DTYPE", "int8", "Given: int4"]),
        ({}, {"steps_per_answer": 17}, ["--steps-per-answer", "to 16", "17"]),
        ({"TPU_TGI_STEPS_PER_ANSWER": "-1"}, {}, ["TPU_TGI_STEPS_PER_ANSWER", "0 (one at a time)", "-1"]),
        ({}, {"sharded": True}, ["--num-shard 1"]),
        ({}, {"dtype": "int8"}, ["--dtype", "bfloat16", "int8"]),
        ({}, {"max_input_tokens": 0}, ["--max-input-tokens", "0"]),
        ({}, {"uds_path": "/tmp/" + "x" * 110}, ["--uds-path is too long"]),
        ({"WORLD_SIZE": "8"}, {}, ["--num-shard 1"]),
        ({"HF_NUM_CHIPS": "0"}, {}, ["HF_NUM_CHIPS", "at least 1", "0"]),
        ({}, {"num_shard": 0}, ["--num-shard", "at least 1", "0"]),
        ({"HF_NUM_CHIPS": "4"}, {"num_shard": 8}, ["--num-shard 8", "HF_NUM_CHIPS=4"]),
        (
            {"LORA_ADAPTERS": "a=b=c"},
            {},
            ["LORA_ADAPTERS (--lora-adapters) has 'a=b=c'", "sql=/adapters/sql"],
        ),
        ({"LORA_ADAPTERS": "a@1@2"}, {}, ["has 'a@1@2'"]),
        ({"LORA_ADAPTERS": "a,,b"}, {}, ["has ''", "Given: a,,b"]),
        ({"LORA_ADAPTERS": "a,b,a=/c"}, {}, ["names a twice", "a-2=/c"]),
        ({"ROPE_SCALING": "dynamic"}, {}, ["ROPE_SCALING=dynamic", "--rope-scaling"]),
        ({"ROPE_FACTOR": "2.0"}, {}, ["ROPE_FACTOR=2.0", "--rope-factor"]),
        ({"WATERMARK_GAMMA": "1.5"}, {}, ["WATERMARK_GAMMA", "1.5", "0.5"]),
        ({"WATERMARK_GAMMA": "half"}, {}, ["WATERMARK_GAMMA", "half"]),
        ({"WATERMARK_DELTA": "inf"}, {}, ["WATERMARK_DELTA", "inf"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    environment: dict[str, str], flags: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(InvalidSettingError) as refusal:
        settings(environment, **flags)
    for words in named:
        assert words in str(refusal.value)


def test_the_number_of_chips_comes_from_either_place_and_is_that_of_the_host_without() -> None:
    assert settings({}).chips is None
    assert settings({"HF_NUM_CHIPS": "4"}).chips == 4
    assert settings({}, num_shard=2).chips == 2
    # What the launcher was told by its variable says nothing to the one shard that it started.
    assert settings({"NUM_SHARD": "2"}).chips is None


@pytest.mark.parametrize(("given", "drafts"), [(None, 0), (0, 0), (4, 4), (8, 8)])
def test_speculation_is_off_unless_it_is_asked_for(given: int | None, drafts: int) -> None:
    assert settings({}, speculate=given).speculate == drafts


def test_how_many_steps_an_answer_has_is_left_to_the_device_unless_it_is_said() -> None:
    assert settings({}).steps_per_answer is None
    assert settings({"TPU_TGI_STEPS_PER_ANSWER": "0"}).steps_per_answer == 0
    assert settings({"TPU_TGI_STEPS_PER_ANSWER": "0"}, steps_per_answer=8).steps_per_answer == 8


def test_adapters_come_in_the_launchers_format() -> None:
    # TGI v3.3.7, utils/adapter.py: id, name=path, name=path@revision, and id@revision in the launcher.
    assert settings(
        {"LORA_ADAPTERS": "org/sql, law=/adapters/law,org/chat@v2,en=org/english@main"}
    ).adapters == (
        AdapterSource("org/sql", "org/sql"),
        AdapterSource("law", "/adapters/law"),
        AdapterSource("org/chat", "org/chat", "v2"),
        AdapterSource("en", "org/english", "main"),
    )
    assert settings({}).adapters == ()


def test_what_launchers_always_set_is_no_wish() -> None:
    always = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "CUDA_GRAPHS": "1,2,4,8,16,32",
        "ATTENTION": "paged",
        "PREFIX_CACHING": "1",
        "LORA_ADAPTERS": "",
        "REQUEST_LOGPROBS": "0",
    }
    assert settings(always, speculate=0).batch_size is None


def test_compiled_programs_are_kept_in_the_users_cache_directory_unless_that_is_off() -> None:
    assert settings({"HOME": "/home/me"}).compile_cache == Path("/home/me/.cache/tpu-tgi")
    assert settings({"HOME": "/home/me", "XDG_CACHE_HOME": "/cache"}).compile_cache == Path("/cache/tpu-tgi")
    assert settings({"TPU_TGI_COMPILE_CACHE": "/data/c"}).compile_cache == Path("/data/c")
    assert settings({"TPU_TGI_COMPILE_CACHE": "/data/c"}, compile_cache="/x").compile_cache == Path("/x")
    for name in ("off", "OFF"):
        assert settings({"TPU_TGI_COMPILE_CACHE": name}).compile_cache is None
        assert settings(compile_cache=name).compile_cache is None


def test_a_hang_is_judged_after_five_minutes_or_as_told() -> None:
    assert settings().hang_seconds == 300
    assert settings({"TPU_TGI_HANG_TIMEOUT": "60"}).hang_seconds == 60
    assert settings({"TPU_TGI_HANG_TIMEOUT": "60"}, hang_timeout=2.5).hang_seconds == 2.5
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidSettingError, match="--hang-timeout must be more than 0"):
            settings(hang_timeout=bad)
    with pytest.raises(InvalidSettingError, match="TPU_TGI_HANG_TIMEOUT must be a number"):
        settings({"TPU_TGI_HANG_TIMEOUT": "soon"})


def test_metrics_are_off_unless_they_have_a_port() -> None:
    assert settings().metrics_port is None
    assert settings({"TPU_TGI_METRICS_PORT": "9400"}).metrics_port == 9400
    assert settings(metrics_port=9401).metrics_port == 9401
    with pytest.raises(InvalidSettingError, match="--metrics-port must be a port from 1 to 65535"):
        settings(metrics_port=70000)
