"""Grammars: outputs that must match a regular expression or a JSON schema. llguidance does the matching."""
