"""What stands around the shard: the embedded launcher and router behind the command `tpu-tgi`."""
