"""The platform: regions and hosts."""

from godwit.client.records import Host, Regions
from godwit.client.transport import Transport


class Platform:
    """What belongs to no organization."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def regions(self) -> Regions:
        """Return the regions that have hosts."""
        answer = await self._transport.get("/v1/platform/regions")
        spoken = {str(key).lower(): value for key, value in (answer or {}).items()}
        return Regions.model_validate(spoken)

    async def hosts(self) -> list[Host]:
        """Return the hosts."""
        answer = await self._transport.get("/x/v1/hosts")
        return [Host.model_validate(one) for one in answer.get("hosts") or []]
