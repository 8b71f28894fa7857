"""What `make bench` prints of the price of features."""

from benchmarks.feature_price import FEATURES, NOTHING, Prices, report


def test_a_feature_is_compared_with_plain_greedy_steps_and_adapters_with_none_loaded() -> None:
    prices = Prices(
        steps={feature.name: [60.0] for feature in FEATURES} | {NOTHING.name: [50.0], "sampling": [52.0]},
        without_adapters=[40.0],
        prefill=[100.0],
        prompt_logprobs=[110.0],
        compiled={"choose penalties": 0.5, "rank 1": 1.0, "rank 8": 2.0, "prefill 32": 9.5},
    )
    lines = report(prices).splitlines()
    cells = {
        row[0]: row[1:] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines) if row
    }
    assert cells["plain greedy, no adapters loaded"] == ["40.0", "", "", ""]
    assert cells["plain greedy, adapters loaded, none used"] == ["50.0", "+10.0", "+25%", "none"]
    assert cells["sampling"] == ["52.0", "+2.0", "+4%", "1 (0.5 s)"]
    assert cells["alternatives (top_n_tokens)"] == ["60.0", "+10.0", "+20%", "2 (3.0 s)"]
    assert cells["prompt logprobs, once, 64 tokens"][:3] == ["110.0", "", "+110% of a prefill"]
    assert lines[-1] == "Warm-up of all: 4 programs in 13 s."
