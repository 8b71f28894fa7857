"""What the routes that OpenAI's clients call have in common, and their answers."""
