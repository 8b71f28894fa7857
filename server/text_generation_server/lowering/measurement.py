"""What torch_xla counts: compilations, and operations that fell back to the host."""

import torch_xla.debug.metrics as metrics


def compilations() -> int:
    """Programs compiled by this process so far."""
    return int(metrics.counter_value("UncachedCompile") or 0)


def fallbacks() -> list[str]:
    """Operations that XLA could not lower and that ran on the host, each with a round trip."""
    return list(metrics.executed_fallback_ops())
