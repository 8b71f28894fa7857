"""The same requests to the embedded and to the stock router, each in front of a fake shard: what comes back, and
what reaches the shard.

Skipped where the stock router is not in PATH.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from clients.differences import Difference
from clients.recorded_requests import CHAT, COMPLETIONS, RECORDED, Recorded
from front.fake_shard import FakeShard
from front.running_front import running_front
from stock_router.routed import routed, running
from stock_router.stock_programs import ROUTERS, need
from text_generation_server.pb import messages_pb2 as pb
from tpu_tgi import demo_model
from tpu_tgi.router.settings import RouterSettings

MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"
LENGTH = 512

# Of the connection; or of CORS, which the embedded router leaves out where no web page asks.
UNCOMPARED = {"x-request-id", "date", "content-length", "connection", "transfer-encoding"}
UNCOMPARED |= {"vary", "access-control-allow-origin"}
TIMES = re.compile(r"x-.*time.*")


@dataclass(frozen=True)
class Answer:
    """What a client sees, without times, and without what a JSON parser says in a plain text."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Side:
    """A router and the shard behind it."""

    client: httpx.Client
    shard: FakeShard

    def answer(self, recorded: Recorded) -> tuple[Answer, list[pb.Request]]:
        """The answer, and what the shard was asked for it."""
        before = len(self.shard.requests)
        method = "GET" if recorded.body is None else "POST"
        response = self.client.request(method, recorded.path, json=recorded.body)
        headers = {
            name: "" if TIMES.fullmatch(name) else value
            for name, value in response.headers.items()
            if name not in UNCOMPARED
        }
        body = re.sub(r'"created":\d+', '"created":0', response.text)
        # The commit that the stock router was built from.
        body = re.sub(r'"sha":"\w+"', '"sha":null', body)
        # Where the embedded router says who answers.
        body = re.sub(r'"docker_label":"[^"]+"', '"docker_label":null', body)
        if headers.get("content-type", "").startswith("text/plain"):
            body = re.sub(r"(as JSON|target type): .*", r"\1: ...", body)
        return Answer(response.status_code, headers, body), self.shard.requests[before:]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """The embedded router and the stock router, in this order."""
    need(ROUTERS["v3"])
    demo_model.prepare(MODEL)
    directory = tmp_path_factory.mktemp("both")
    ours = FakeShard(str(directory / "ours-0"), max_length=LENGTH)
    theirs = FakeShard(str(directory / "theirs-0"), max_length=LENGTH)
    settings = RouterSettings(model_id=str(MODEL), compute_type="gpu+optimized")
    with (
        running_front(ours, settings) as front,
        running(theirs),
        routed(directory, MODEL, theirs) as stock,
        httpx.Client(base_url=f"http://127.0.0.1:{stock.http.port}", timeout=20) as client,
    ):
        yield Side(front.client, ours), Side(client, theirs)
    assert theirs.violations == []


@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED.keys())
def test_both_routers_give_the_same_answer_or_the_documented_difference(
    both: tuple[Side, Side], recorded: Recorded
) -> None:
    embedded, _ = both[0].answer(recorded)
    stock, _ = both[1].answer(recorded)
    if recorded.difference is None:
        assert embedded == stock
    else:
        assert embedded != stock, f"no difference any more: {recorded.difference.value}"


# One prompt is refused, and ends the work on the other, which the shard may or may not have got by then.
ENDED_EARLY = "completions, one refused"

ASKED = {
    name: recorded
    for name, recorded in RECORDED.items()
    if recorded.difference is None and name != ENDED_EARLY
}


@pytest.mark.parametrize("recorded", ASKED.values(), ids=ASKED.keys())
def test_both_routers_ask_the_same_of_the_shard(both: tuple[Side, Side], recorded: Recorded) -> None:
    embedded, stock = (asked(side.answer(recorded)[1], recorded) for side in both)
    assert embedded == stock


def asked(requests: list[pb.Request], recorded: Recorded) -> list[pb.Request]:
    """In an order of their own: several prompts of one body are tokenised at the same time, in either router, and enter
    the queue as that ends."""
    return sorted((comparable(request, recorded) for request in requests), key=lambda request: request.inputs)


def comparable(request: pb.Request, recorded: Recorded) -> pb.Request:
    """Without what differs from request to request, and without two differences that the documentation names."""
    kept = pb.Request()
    kept.CopyFrom(request)
    for field in ("id", "blocks", "slots"):
        kept.ClearField(field)
    kept.parameters.ClearField("seed")
    # A schema, which the stock router makes a regular expression of.
    if recorded.path == CHAT and kept.parameters.grammar:
        kept.parameters.grammar, kept.parameters.grammar_type = "a schema", pb.GRAMMAR_TYPE_JSON
    if recorded.path == COMPLETIONS:
        kept.ClearField("prefill_logprobs")
    return kept


def test_every_difference_is_documented() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "embedded-router.md").read_text()
    for difference in Difference:
        assert f"| {difference.value}" in documentation
