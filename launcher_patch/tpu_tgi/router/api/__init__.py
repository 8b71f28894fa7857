"""TGI's own answers, and the description of all routes."""
