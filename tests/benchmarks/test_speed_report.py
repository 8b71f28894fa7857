"""What `make bench` prints."""

from benchmarks.engine_speed import BatchResult, EndToEnd, Times, report
from benchmarks.report import median_and_spread
from text_generation_server.engine.contract import WarmupProgress


def result(batch_size: int) -> BatchResult:
    decode = Times(ours=[50.0], eager=[100.0], llama=[40.0] if batch_size == 8 else [])
    warmup = [WarmupProgress("prefill 512", 1, 2, 4.5), WarmupProgress(f"rank {batch_size}", 2, 2, 3.0)]
    return BatchResult(batch_size, decode, decode, decode, Times(ours=[80.0]), host=[1.25], warmup=warmup)


def test_the_report_puts_eager_torch_and_llama_cpp_where_it_was_built_beside_the_engine_at_each_batch_size() -> (
    None
):
    lines = report([result(1), result(8)]).splitlines()
    decode = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in lines
        if "decode, greedy, context 64" in line
    ]
    assert decode == [
        ["1", "decode, greedy, context 64", "50.0", "100.0", "2.00", "", "", "20.0", "10.0", ""],
        [
            "8",
            "decode, greedy, context 64",
            "50.0",
            "100.0",
            "2.00",
            "40.0",
            "0.80",
            "160.0",
            "80.0",
            "200.0",
        ],
    ]


def test_the_report_adds_up_the_warm_up_and_ends_with_what_a_user_gets() -> None:
    full = result(8)
    full.end_to_end = EndToEnd(ours=[90.0], eager=[60.0], text_ms=[0.5])
    text = report([result(1), full])
    warmup = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[-4:]]
    assert "8 requests of 32 new tokens: 90.0 tokens/s; `model.generate`: 60.0 tokens/s" in text
    assert warmup == [
        ["prefill 512", "4.5", "4.5"],
        ["rank 1", "3.0", ""],
        ["rank 8", "", "3.0"],
        ["all programs", "7.5", "7.5"],
    ]


def test_a_median_shows_the_middle_half_of_the_values() -> None:
    assert median_and_spread([1.0, 2.0, 3.0, 4.0, 100.0]) == "3.0 (2.0-4.0)"
