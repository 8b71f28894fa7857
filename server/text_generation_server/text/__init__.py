"""Between text and token ids: the tokenizer, prompts, incremental detokenisation, stop sequences."""
