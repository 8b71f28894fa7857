"""The only package that imports torch_xla: the day something replaces it, this one changes."""
