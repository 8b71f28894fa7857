"""Measurements: what they mean and what they said stands in docs/performance.md."""
