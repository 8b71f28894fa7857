"""LoRA adapters: read from PEFT's files, laid side by side, and added to the model's linear layers row by row."""
