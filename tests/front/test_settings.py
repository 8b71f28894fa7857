"""Options that contradict each other are refused before anything is started."""

import pytest

from text_generation_server.errors import InvalidSettingError
from tpu_tgi.router.settings import RouterSettings
from tpu_tgi.settings import agreed, check_lengths


def test_one_source_is_enough_and_two_may_agree() -> None:
    assert agreed("--max-batch-size", None, "HF_BATCH_SIZE", {}) is None
    assert agreed("--max-batch-size", 4, "HF_BATCH_SIZE", {}) == 4
    assert agreed("--max-batch-size", None, "HF_BATCH_SIZE", {"HF_BATCH_SIZE": "4"}) == 4
    assert agreed("--max-batch-size", 4, "HF_BATCH_SIZE", {"HF_BATCH_SIZE": "4"}) == 4
    assert agreed("--max-batch-size", 4, "HF_BATCH_SIZE", {"HF_BATCH_SIZE": ""}) == 4


def test_two_sources_that_differ_are_refused_with_a_value_that_works() -> None:
    with pytest.raises(InvalidSettingError) as refusal:
        agreed("--max-total-tokens", 512, "HF_SEQUENCE_LENGTH", {"HF_SEQUENCE_LENGTH": "1024"})
    assert str(refusal.value) == (
        "`--max-total-tokens 512` contradicts `HF_SEQUENCE_LENGTH=1024`: "
        "give one of them, or `--max-total-tokens 1024`"
    )


@pytest.mark.parametrize("text", ["0", "-1", "four", "4.0", "\u0664"])
def test_a_variable_that_is_no_positive_integer_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"`HF_BATCH_SIZE={text}` must be a positive integer"):
        agreed("--max-batch-size", None, "HF_BATCH_SIZE", {"HF_BATCH_SIZE": text})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_input_tokens": 64, "max_total_tokens": 64},
            "`--max-input-tokens 64` must be < `--max-total-tokens 64`: 63 would work",
        ),
        (
            {"max_input_tokens": 64, "max_batch_prefill_tokens": 32},
            "`--max-batch-prefill-tokens 32` must be >= `--max-input-tokens 64`: 64 would work",
        ),
    ],
)
def test_lengths_that_cannot_be_are_refused_by_name(limits: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidSettingError) as refusal:
        check_lengths(RouterSettings(model_id="some/model", **limits))  # type: ignore[arg-type]
    assert str(refusal.value) == message
