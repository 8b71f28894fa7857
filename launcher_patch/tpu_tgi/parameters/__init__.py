"""Batch size and sequence length, and every other number that has to agree with them."""
