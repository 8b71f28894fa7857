"""A conversation: its request, its prompt, and what becomes of the text of the model."""
