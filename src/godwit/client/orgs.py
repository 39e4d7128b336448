"""Organizations: `/x/v1/orgs`."""

from godwit.client.records import Org, OrgShown
from godwit.client.transport import Transport


class Orgs:
    """Organizations."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> list[Org]:
        """Return the organizations a token is for."""
        answer = await self._transport.get("/x/v1/orgs")
        return [Org.model_validate(one) for one in answer.get("orgs") or []]

    async def show(self, slug: str) -> OrgShown:
        """Return an organization and what it takes.

        Raises:
            Failure: `not_found`.
        """
        return OrgShown.model_validate(await self._transport.get(f"/x/v1/orgs/{slug}"))

    async def create(self, slug: str, name: str = "") -> Org:
        """Create an organization.

        Raises:
            Failure: `already_exists` when the slug is taken.
        """
        answer = await self._transport.call(
            "POST", "/x/v1/orgs", body={"slug": slug, "name": name or slug}
        )
        return Org.model_validate(answer)

    async def allow_cross_network_replays(self, slug: str, allowed: bool) -> Org:
        """Decide whether its apps may replay requests into any of its networks.

        Raises:
            Failure: `not_found`, `permission_denied`.
        """
        path = f"/x/v1/orgs/{slug}/cross_network_replays"
        answer = await self._transport.call("PUT", path, body={"allowed": allowed})
        return Org.model_validate(answer)

    async def delete(self, slug: str) -> None:
        """Delete an organization.

        Raises:
            Failure: `failed_precondition` while it has apps.
        """
        await self._transport.call("DELETE", f"/x/v1/orgs/{slug}")
