"""A router in front of a fake shard, and `tpu-tgi` in a terminal of its own."""

from front.conftest import front, model_directory, start_front

__all__ = ["front", "model_directory", "start_front"]
