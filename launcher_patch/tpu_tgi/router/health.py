"""Whether the shard can serve."""

import logging

from tpu_tgi.router.errors import ShardError
from tpu_tgi.router.shard_client import ShardClient

logger = logging.getLogger(__name__)


class Health:
    """Asks a healthy shard how it is, and makes one that has failed prove itself with a real prefill."""

    def __init__(self, client: ShardClient) -> None:
        self._client = client
        self._healthy = True

    def report_failure(self) -> None:
        """A generation failed: the shard's own word is not enough any more."""
        self._healthy = False

    async def check(self) -> bool:
        """Runs the check that the state calls for; the outcome is the new state."""
        try:
            if self._healthy:
                await self._client.health()
            else:
                await self._client.liveness()
        except ShardError as error:
            logger.error("The shard is unhealthy: %s", error)
            self._healthy = False
        else:
            self._healthy = True
        return self._healthy
