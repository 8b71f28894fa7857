"""What somebody at a terminal sees: the progress of a start, and a chat."""
