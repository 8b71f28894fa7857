"""The engine: a model, its static batch and its KV cache, behind one small contract."""
