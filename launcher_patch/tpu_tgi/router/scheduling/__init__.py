"""Who waits, who runs, and what is called next: the queue and continuous batching."""
