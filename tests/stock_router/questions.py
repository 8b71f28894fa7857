"""Prompts for the demo model, short and different from each other in length and language."""

PROMPTS = [
    "The capital of France is",
    "What is Deep Learning?",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "Ein kurzer Satz über Zürich:",
    "1, 2, 3, 4,",
    "Water boils at",
    "The three primary colours are",
]
