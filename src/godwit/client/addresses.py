"""Addresses of apps: `/v1/apps/{app}/ip_assignments`."""

from dataclasses import dataclass
from urllib.parse import quote

from godwit.client.records import Answer
from godwit.client.transport import Transport


class NetworkName(Answer):
    """A private network, by its name within its organization."""

    name: str = ""
    org_slug: str = ""


@dataclass(frozen=True)
class Within:
    """Whose machines reach a private address; the app's own network where nothing is said."""

    org: str = ""
    network: str = ""


class AddressAssignment(Answer):
    """An address of an app."""

    ip: str
    type: str = ""
    region: str = ""
    service_name: str = ""
    shared: bool = False
    created_at: str | None = None
    network: NetworkName | None = None


class Addresses:
    """Addresses."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self, app: str) -> list[AddressAssignment]:
        """Return an app's addresses, the oldest first."""
        answer = await self._transport.get(_path(app))
        return [AddressAssignment.model_validate(one) for one in answer.get("ips") or []]

    async def allocate(
        self, app: str, kind: str, region: str = "", within: Within | None = None
    ) -> AddressAssignment:
        """Give an app an address: `v4`, `v6`, `shared_v4`, `private_v6`.

        Raises:
            Failure: The platform has none of that kind to give.
        """
        body = {"type": kind, "region": region}
        if within is not None:
            body |= {"org_slug": within.org, "network": within.network}
        answer = await self._transport.call("POST", _path(app), body=body)
        return AddressAssignment.model_validate(answer)

    async def release(self, app: str, ip: str) -> None:
        """Take an address from an app.

        Raises:
            Failure: `not_found`.
        """
        await self._transport.call("DELETE", f"{_path(app)}/{quote(ip, safe='')}")


def _path(app: str) -> str:
    return f"/v1/apps/{quote(app, safe='')}/ip_assignments"
