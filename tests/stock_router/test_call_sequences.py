"""The stock router, played the scenes that the embedded router is held to in tests/front."""

from pathlib import Path

import pytest

from front.batching_scenes import SCENES, Scene, play
from front.fake_shard import FakeShard
from stock_router.routed import routed, running
from stock_router.stock_programs import ROUTERS, need
from wire.shard_process import spelling_checkpoint

LENGTH = 64


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_requests_join_and_leave_as_in_front_of_the_embedded_router(tmp_path: Path, scene: Scene) -> None:
    need(ROUTERS["v3"])
    shard = FakeShard(str(tmp_path / "shard-0"), max_length=LENGTH, **scene.shard)
    flags = ["--waiting-served-ratio", str(scene.ratio)]
    flags += ["--max-waiting-tokens", str(scene.max_waiting_tokens)]
    if scene.max_batch_size is not None:
        flags += ["--max-batch-size", str(scene.max_batch_size)]
    model = spelling_checkpoint(tmp_path / "model")
    with running(shard), routed(tmp_path, model, shard, *flags) as service:
        assert play(scene, shard, f"http://127.0.0.1:{service.http.port}") == scene.calls
    assert shard.violations == []
