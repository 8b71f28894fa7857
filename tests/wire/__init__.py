"""The wire, the command line and the process of the shard, as routers and launchers see them."""
