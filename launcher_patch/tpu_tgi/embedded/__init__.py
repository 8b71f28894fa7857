"""The launcher in Python: starts the shard, serves in front of it, and stops both. `stock` is its counterpart."""
