"""The shard: a model server for one static batch on an XLA device, behind the stock TGI router."""
