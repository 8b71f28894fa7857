"""From a conversation to a prompt, and from what the model says to a message or a tool call."""
