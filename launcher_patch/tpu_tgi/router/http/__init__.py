"""Bodies, events and connections, whatever is asked."""
