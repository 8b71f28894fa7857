"""From a checkpoint to what the engine needs of it: what is supported, weights, memory, adapters."""
