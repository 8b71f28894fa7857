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

AFTER_A_SPACE = " " + PROMPTS[0]
"""The first word after a space is another token than the first of a text."""

QUESTION = "What is Deep Learning?"
SHORTLY_ANSWERED = "What is 2+2? Answer with one number."
