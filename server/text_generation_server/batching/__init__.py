"""The life of a request: batches over slots, and the steps that are in flight."""
