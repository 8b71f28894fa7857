"""The shard as the router sees it: calls, messages, limits and health."""
