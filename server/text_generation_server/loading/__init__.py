"""From settings to a running engine: the one place where model, lowering, runtime and engine meet."""
