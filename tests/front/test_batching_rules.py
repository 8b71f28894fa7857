"""The embedded router makes the calls of the stock one: who is let into a running batch, and when."""

import pytest

from front.batching_scenes import SCENES, Scene, play
from front.conftest import StartFront


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_requests_join_and_leave_as_with_the_stock_router(start_front: StartFront, scene: Scene) -> None:
    with start_front(
        shard=scene.shard,
        waiting_served_ratio=scene.ratio,
        max_waiting_tokens=scene.max_waiting_tokens,
        max_batch_size=scene.max_batch_size,
    ) as front:
        assert play(scene, front.shard, f"http://127.0.0.1:{front.port}") == scene.calls
