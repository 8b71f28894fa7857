"""The page for people: a playground and a live view, in static files that a browser loads as they are."""
