"""The checks of the stock programs, as their sources of v3.3.7 have them: an oracle for what is derived.

Launcher: launcher/src/main.rs; routers: backends/v3/src/{main,lib}.rs and backends/v2/src/{main,lib}.rs. The launcher
of 1.4.5 also compared the prefill budget with both other limits.
"""

from text_generation_server.wire.limits import WireVersion, limits_for_router
from tpu_tgi.parameters.derivation import Parameters

# What the v2 router assumes if it is not told.
V2_INPUT, V2_TOTAL = 1024, 2048


def check_launcher(parameters: Parameters) -> None:
    longest, total = parameters.max_input_tokens, parameters.sequence_length
    budget = parameters.max_batch_total_tokens
    if longest is not None and total is not None:
        assert longest < total
    if budget is not None and total is not None:
        assert total <= budget


def check_launcher_1_4(parameters: Parameters) -> None:
    longest, prefill = parameters.max_input_tokens, parameters.max_batch_prefill_tokens
    assert longest is not None
    assert prefill is not None
    assert longest <= prefill
    if parameters.max_batch_total_tokens is not None:
        assert prefill <= parameters.max_batch_total_tokens


def chosen_by_the_shard(total: int, prefill: int) -> int:
    """A device that holds one prefill: only the shard can know whether it does."""
    return max(1, -(-prefill // total))


def check_shard_and_v3_router(parameters: Parameters) -> None:
    """The shard's answer to the warm-up, and what the router then asserts about it."""
    total, prefill = parameters.sequence_length, parameters.max_batch_prefill_tokens
    assert total is not None
    assert prefill is not None
    answer = limits_for_router(
        WireVersion.V3,
        batch_size=parameters.batch_size or chosen_by_the_shard(total, prefill),
        max_length=total,
        drafts=0,
        max_input_tokens=parameters.max_input_tokens,
        max_prefill_tokens=prefill,
        max_total_tokens=total,
    )
    assert parameters.max_input_tokens == answer.max_input_tokens
    assert total == answer.max_total_tokens
    assert answer.max_input_tokens < answer.max_total_tokens
    assert answer.max_input_tokens <= prefill <= answer.max_supported_total_tokens
    assert answer.max_total_tokens <= answer.max_supported_total_tokens


def check_shard_and_v2_router(parameters: Parameters) -> None:
    prefill, budget = parameters.max_batch_prefill_tokens, parameters.max_batch_total_tokens
    longest = parameters.max_input_tokens or V2_INPUT
    total = parameters.sequence_length or V2_TOTAL
    assert prefill is not None
    assert longest < total
    assert longest <= prefill
    if budget is not None:
        assert prefill <= budget
        assert total <= budget
    answer = limits_for_router(
        WireVersion.V2,
        batch_size=parameters.batch_size or chosen_by_the_shard(total, prefill),
        max_length=total,
        drafts=0,
        max_input_tokens=longest,
        max_prefill_tokens=prefill,
        max_total_tokens=total,
    )
    assert total <= answer.max_supported_total_tokens
