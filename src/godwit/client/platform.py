"""The platform: regions, and where machines would go."""

from collections.abc import Mapping
from typing import Any

from godwit.client.records import Placement, Regions
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

    async def placements(
        self,
        org_slug: str,
        *,
        count: int = 0,
        region: str = "",
        guest: Mapping[str, Any] | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> list[Placement]:
        """Return where machines would go if they were created now; nothing is reserved.

        Args:
            org_slug: Whose they would be.
            count: How many; 0 for as many as fit.
            region: One, several with commas, or `any`; in order of preference.
            guest: How large each would be.
            weights: What counts: `region` for that order, `spread` for an even spread.

        Raises:
            Failure: `insufficient_capacity` when they do not all fit.
        """
        given = {"region": region, "compute": guest, "weights": weights}
        body: dict[str, Any] = {"org_slug": org_slug, "count": count}
        body |= {name: value for name, value in given.items() if value}
        answer = await self._transport.call("POST", "/v1/platform/placements", body=body)
        return [Placement.model_validate(one) for one in answer.get("regions") or []]
