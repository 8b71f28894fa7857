"""Whether the shard can serve."""

from loguru import logger

from tpu_tgi.router.errors import ShardError
from tpu_tgi.router.shard.client import ShardClient


class Health:
    """Asks a healthy shard how it is, and makes one that has failed prove itself with a real prefill.

    Args:
        hang_seconds: a prefill or a decode that takes longer will not come back.
    """

    def __init__(self, client: ShardClient, hang_seconds: float) -> None:
        self._hang_seconds = hang_seconds
        self._client = client
        self._healthy = True
        self._failures = 0

    def report_failure(self) -> None:
        """A generation failed: the shard's own word is not enough any more."""
        self._healthy = False
        self._failures += 1

    async def check(self) -> bool:
        """Runs the check that the state calls for; the outcome is the new state.

        A failure that was reported meanwhile counts for more: the shard may have answered before it.
        """
        waiting = self._client.seconds_in_call
        if waiting > self._hang_seconds:
            logger.error("The shard is unhealthy: it has not answered a call for {:.0f} s", waiting)
            return False
        failures = self._failures
        try:
            if self._healthy:
                await self._client.health()
            else:
                await self._client.liveness()
        except ShardError as error:
            logger.error("The shard is unhealthy: {}", error)
            self._healthy = False
        else:
            self._healthy = failures == self._failures
        return self._healthy
