"""What is read of a model beside its weights: tokenizer and chat template."""
