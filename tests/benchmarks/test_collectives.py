"""The counter of collectives on hand-made HLO."""

import pytest

from benchmarks.collectives import collectives
from benchmarks.hbm_traffic import hbm_traffic

ROW = "f32[8,128]{1,0:T(8,128)}"
REDUCE = "all-reduce(%p), channel_id={channel}, to_apply=%add"


def in_a_loop(known: str) -> str:
    return (
        "HloModule m\n"
        f"%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{\n"
        f"  %t = (s32[], {ROW}) parameter(0)\n"
        f"  %i = s32[] get-tuple-element(%t), index=0\n"
        f"  %p = {ROW} get-tuple-element(%t), index=1\n"
        f"  %r = {ROW} {REDUCE.format(channel=2)}\n"
        f"  ROOT %n = (s32[], {ROW}) tuple(%i, %r)\n"
        "}\n"
        "%condition (t: (s32[], f32[8,128])) -> pred[] {\n"
        f"  %t = (s32[], {ROW}) parameter(0)\n"
        "  ROOT %c = pred[] constant(true)\n"
        "}\n"
        "ENTRY %main (p: f32[8,128]) -> f32[8,128] {\n"
        f"  %p = {ROW} parameter(0)\n"
        f"  %first = {ROW} {REDUCE.format(channel=1)}\n"
        "  %zero = s32[] constant(0)\n"
        f"  %start = (s32[], {ROW}) tuple(%zero, %first)\n"
        f"  %loop = (s32[], {ROW}) while(%start), condition=%condition, body=%body{known}\n"
        f"  ROOT %out = {ROW} get-tuple-element(%loop), index=1\n"
        "}\n"
    )


def test_what_a_loop_runs_counts_as_often_as_it_runs() -> None:
    known = in_a_loop(', backend_config={"known_trip_count":{"n":"5"}}')
    assert collectives(known) == {"all-reduce": 6}
    # Each reads its operand and writes its result.
    assert sum(move.bytes for move in hbm_traffic(known)) == 6 * 2 * 8 * 128 * 4


def test_a_loop_without_a_number_needs_one() -> None:
    unknown = in_a_loop("")
    with pytest.raises(ValueError, match="loop: how often its body runs is not known"):
        collectives(unknown)
    assert collectives(unknown, unknown_trips=3) == {"all-reduce": 4}


def test_the_pieces_of_one_collective_in_several_fusions_count_once() -> None:

    def piece(number: int) -> str:
        return (
            f"%part{number} (p: f32[8,128]) -> f32[8,128] {{\n"
            f"  %p = {ROW} parameter(0)\n"
            f"  ROOT %g = {ROW} all-gather(%p), channel_id=7, dimensions={{0}}\n"
            "}\n"
        )

    hlo = (
        "HloModule m\n"
        + piece(1)
        + piece(2)
        + "ENTRY %main (p: f32[8,128]) -> f32[8,128] {\n"
        + f"  %p = {ROW} parameter(0)\n"
        + f"  %a = {ROW} fusion(%p), kind=kCustom, calls=%part1\n"
        + f"  ROOT %b = {ROW} fusion(%a), kind=kCustom, calls=%part2\n"
        + "}\n"
    )
    assert collectives(hlo) == {"all-gather": 1}
