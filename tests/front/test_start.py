"""What the router asks of a shard before it serves, and when it refuses to."""

from pathlib import Path

import pytest

from front.conftest import StartFront
from front.fake_shard import FakeShard
from tpu_tgi.router.errors import RouterStartError
from tpu_tgi.router.model.tokenization import load_tokenizer


def warmed_up(start_front: StartFront, **settings: int) -> FakeShard:
    with start_front(**settings) as front:
        return front.shard


def test_warm_up_is_requested_as_by_the_stock_router(start_front: StartFront) -> None:
    shard = warmed_up(start_front, max_input_tokens=40, max_total_tokens=64, max_batch_prefill_tokens=100)
    (request,) = shard.warmups
    assert (request.max_input_tokens, request.max_prefill_tokens, request.max_total_tokens) == (40, 100, 64)
    assert [message.truncate for message in request.batch.requests] == [40, 40, 20]
    assert [message.stopping_parameters.max_new_tokens for message in request.batch.requests] == [24, 24, 44]
    assert {message.id for message in request.batch.requests} == {0}
    assert request.batch.size == 3
    first, second = request.batch.requests[:2]
    assert first.input_chunks.chunks[0].text == "_test " * 40
    assert first.input_chunks.chunks[1].image.mimetype == "image/jpeg;base64"
    assert first.input_chunks.chunks[1].image.data.startswith(b"\x89PNG")
    assert len(second.input_chunks.chunks) == 1
    assert first.parameters.watermark
    assert first.top_n_tokens == 20
    assert first.stopping_parameters.ignore_eos_token


def test_limits_that_were_not_given_are_left_to_the_shard(start_front: StartFront) -> None:
    (request,) = warmed_up(start_front).warmups
    assert not request.HasField("max_input_tokens")
    assert not request.HasField("max_total_tokens")
    assert request.max_prefill_tokens == 64
    assert [message.truncate for message in request.batch.requests] == [64]


def test_warm_up_holds_no_more_requests_than_the_batch(start_front: StartFront) -> None:
    shard = warmed_up(start_front, max_input_tokens=10, max_batch_size=2, max_batch_prefill_tokens=64)
    assert [message.truncate for message in shard.warmups[0].batch.requests] == [10, 10]


@pytest.mark.parametrize(("slots", "concurrent"), [(4, 128), (100, 200)])
def test_the_router_learns_the_batch_size_from_the_shard(
    start_front: StartFront, slots: int, concurrent: int
) -> None:
    with start_front(shard={"batch_size": slots}) as front:
        assert front.client.get("/info").json()["max_concurrent_requests"] == concurrent


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_total_tokens": 128}, "`--max-total-tokens 128` does not fit the shard, which allows 64"),
        (
            {"max_batch_prefill_tokens": 32},
            "`--max-batch-prefill-tokens 32` must be >= 63, the longest prompt",
        ),
        (
            {"max_batch_prefill_tokens": 400},
            "`--max-batch-prefill-tokens 400` must be <= 320, the tokens that the shard can hold",
        ),
        ({"max_input_tokens": 64}, "`--max-input-tokens 64` must be < `--max-total-tokens 64`"),
    ],
)
def test_limits_that_do_not_fit_the_shard_are_refused_by_name(
    start_front: StartFront, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(RouterStartError) as refusal:
        warmed_up(start_front, **settings)
    assert str(refusal.value) == message


def test_a_shard_that_pads_its_batches_is_refused(start_front: StartFront) -> None:
    with (
        pytest.raises(RouterStartError, match="requires_padding=True"),
        start_front(shard={"requires_padding": True}),
    ):
        pass


def test_a_damaged_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(RouterStartError, match=f"{file} cannot be read"):
        load_tokenizer(tmp_path)


def test_a_model_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RouterStartError, match=f"No tokenizer could be loaded from {tmp_path}"):
        load_tokenizer(tmp_path)
