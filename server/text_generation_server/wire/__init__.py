"""Protobuf lives here and nowhere else: RPCs, messages, the socket, and what a router is told."""
