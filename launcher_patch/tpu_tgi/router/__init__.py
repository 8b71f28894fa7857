"""The embedded router: HTTP, validation, queue and continuous batching in front of one shard."""
