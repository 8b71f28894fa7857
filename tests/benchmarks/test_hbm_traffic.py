"""The traffic counter on hand-made HLO: what each construct moves can be told without a compiler."""

import pytest

from benchmarks.hbm_traffic import hbm_traffic, parse_arrays

ROW_BYTES = 128 * 2
TABLE = "bf16[1024,128]{1,0:T(8,128)(2,1)}"


def module(entry: str, computations: str = "") -> str:
    return f"HloModule m\n{computations}\nENTRY %main (a: f32[]) -> f32[] {{\n{entry}\n}}\n"


def traffic_of(hlo: str) -> dict[str, int]:
    return {moved.instruction: moved.bytes for moved in hbm_traffic(hlo)}


def test_an_operation_reads_its_operands_and_writes_its_result() -> None:
    hlo = module(
        f"  %a = {TABLE} parameter(0)\n  %b = {TABLE} parameter(1)\n  ROOT %sum = {TABLE} add(%a, %b), metadata={{}}"
    )
    assert traffic_of(hlo) == {"sum": 3 * 1024 * ROW_BYTES}


def test_a_value_that_is_two_operands_at_once_is_read_once() -> None:
    hlo = module(f"  %a = {TABLE} parameter(0)\n  ROOT %square = {TABLE} multiply(%a, %a)")
    assert traffic_of(hlo) == {"square": 2 * 1024 * ROW_BYTES}


def test_memory_on_the_chip_does_not_count() -> None:
    on_chip = TABLE.replace("(2,1)", "(2,1)S(1)")
    hlo = module(
        f"  %a = {TABLE} parameter(0)\n"
        f"  %start = ({on_chip}, {TABLE}, u32[]{{:S(2)}}) copy-start(%a)\n"
        f"  %done = {on_chip} copy-done(%start)\n"
        f"  ROOT %b = {on_chip} negate(%done)"
    )
    assert traffic_of(hlo) == {"start": 1024 * ROW_BYTES}


def test_a_gather_inside_a_fusion_reads_only_the_rows_that_it_gathers() -> None:
    body = (
        f"%body (p: bf16[1024,128], q: s32[8]) -> bf16[8,128] {{\n"
        f"  %p = {TABLE} parameter(0)\n"
        f"  %q = s32[8]{{0}} parameter(1)\n"
        f"  ROOT %rows = bf16[8,128]{{1,0:T(8,128)(2,1)}} gather(%p, %q), slice_sizes={{1,128}}\n"
        f"}}\n"
    )
    entry = (
        f"  %table = {TABLE} parameter(0)\n"
        f"  %ids = s32[8]{{0}} parameter(1)\n"
        f"  ROOT %taken = bf16[8,128]{{1,0:T(8,128)(2,1)}} fusion(%table, %ids), kind=kCustom, calls=%body"
    )
    assert traffic_of(module(entry, body)) == {"taken": 8 * ROW_BYTES + 8 * 4 + 8 * ROW_BYTES}


def test_an_update_in_place_moves_the_update_and_not_the_cache() -> None:
    body = (
        f"%body (p: bf16[1024,128], u: bf16[8,128], i: s32[]) -> bf16[1024,128] {{\n"
        f"  %p = {TABLE} parameter(0)\n"
        f"  %u = bf16[8,128]{{1,0:T(8,128)(2,1)}} parameter(1)\n"
        f"  %i = s32[] parameter(2)\n"
        f"  %new = {TABLE} dynamic-update-slice(%p, %u, %i, %i)\n"
        f"  ROOT %same = {TABLE} bitcast(%new)\n"
        f"}}\n"
    )
    entry = (
        f"  %cache = {TABLE} parameter(0)\n"
        f"  %update = bf16[8,128]{{1,0:T(8,128)(2,1)}} parameter(1)\n"
        f"  %at = s32[] parameter(2)\n"
        f"  ROOT %next = {TABLE} fusion(%cache, %update, %at), kind=kLoop, calls=%body"
    )
    assert traffic_of(module(entry, body)) == {"next": 2 * 8 * ROW_BYTES + 4}


def test_a_cache_that_is_updated_and_used_within_one_fusion_is_read() -> None:
    body = (
        f"%body (p: bf16[1024,128], u: bf16[8,128], i: s32[]) -> bf16[128] {{\n"
        f"  %p = {TABLE} parameter(0)\n"
        f"  %u = bf16[8,128]{{1,0:T(8,128)(2,1)}} parameter(1)\n"
        f"  %i = s32[] parameter(2)\n"
        f"  %new = {TABLE} dynamic-update-slice(%p, %u, %i, %i)\n"
        f"  ROOT %sum = bf16[128]{{0:T(128)}} reduce(%new), dimensions={{0}}\n"
        f"}}\n"
    )
    entry = (
        f"  %cache = {TABLE} parameter(0)\n"
        f"  %update = bf16[8,128]{{1,0:T(8,128)(2,1)}} parameter(1)\n"
        f"  %at = s32[] parameter(2)\n"
        f"  ROOT %total = bf16[128]{{0:T(128)}} fusion(%cache, %update, %at), kind=kLoop, calls=%body"
    )
    assert traffic_of(module(entry, body)) == {"total": (1024 + 8 + 1) * ROW_BYTES + 4}


def test_heads_of_64_numbers_take_the_bytes_of_128_unless_the_length_comes_last() -> None:
    (padded,) = parse_arrays("bf16[8,1024,3,64]{3,2,1,0:T(4,128)(2,1)}")
    (compact,) = parse_arrays("bf16[8,1024,3,64]{1,3,2,0:T(8,128)(2,1)}")
    assert padded.bytes == 8 * 1024 * 4 * 128 * 2
    assert compact.bytes == 8 * 1024 * 3 * 64 * 2


def test_a_program_with_a_loop_is_refused() -> None:
    hlo = module("  %a = f32[] parameter(0)\n  ROOT %loop = f32[] while(%a), condition=%c, body=%b")
    with pytest.raises(ValueError, match="while loop"):
        hbm_traffic(hlo)


def test_of_the_branches_of_a_conditional_the_dearest_counts() -> None:
    branches = (
        f"%cheap (p: bf16[1024,128]) -> bf16[1024,128] {{\n  ROOT %p = {TABLE} parameter(0)\n}}\n\n"
        f"%dear (q: bf16[1024,128]) -> bf16[1024,128] {{\n"
        f"  %q = {TABLE} parameter(0)\n  ROOT %turned = {TABLE} negate(%q)\n}}\n"
    )
    entry = (
        f"  %which = s32[]{{:T(128)}} parameter(0)\n"
        f"  %table = {TABLE} parameter(1)\n"
        f"  ROOT %taken = {TABLE} conditional(%which, %table, %table), branch_computations={{%cheap, %dear}}"
    )
    assert traffic_of(module(entry, branches)) == {"taken": 2 * 1024 * ROW_BYTES}
