"""Between text and token ids: prompts, incremental detokenisation, stop sequences."""
