"""Bodies of the routes that OpenAI's clients call."""
