"""Alternatives and prompt logprobs as routers read them."""

import math
from typing import Any

import pytest

from text_generation_server.pb import messages_pb2 as pb

from .conftest import RunningShard
from .router_messages import prefill, request


@pytest.fixture
def engine_fields() -> dict[str, Any]:
    return {"scores_prompts": True}


def test_top_tokens_are_one_message_for_each_token(stub: Any) -> None:
    batch = stub.Prefill(prefill(0, request(0, "a", top_n_tokens=2), request(1, "b")))
    answers = [batch.generations, stub.Decode(pb.DecodeRequest(batches=[batch.batch])).generations]
    for asked, silent in answers:
        (best,) = asked.top_tokens
        assert best.ids[0] == asked.tokens.ids[0]
        assert len(best.ids) == len(best.logprobs) == len(best.texts) == len(best.is_special) == 2
        assert not silent.top_tokens


def test_prompt_logprobs_come_once_and_start_with_nan(stub: Any) -> None:
    batch = stub.Prefill(prefill(0, request(0, "abc", prefill_logprobs=True)))
    prompt = batch.generations[0].prefill_tokens
    assert len(prompt.ids) == len(prompt.logprobs) == len(prompt.texts) > 1
    assert math.isnan(prompt.logprobs[0])
    assert not any(math.isnan(logprob) for logprob in prompt.logprobs[1:])
    later = stub.Decode(pb.DecodeRequest(batches=[batch.batch])).generations[0]
    assert not later.HasField("prefill_tokens")


def test_a_request_that_does_not_ask_gets_no_prompt_logprobs(stub: Any, running: RunningShard) -> None:
    answer = stub.Prefill(prefill(0, request(0, "abc")))
    assert not answer.generations[0].HasField("prefill_tokens")
    assert not running.engine.fills[0].scored


def test_a_watermark_reaches_the_engine(stub: Any, running: RunningShard) -> None:
    stub.Prefill(prefill(0, request(0, "a", parameters={"watermark": True}), request(1, "a")))
    assert [call.sampling.watermark for call in running.engine.fills] == [True, False]
