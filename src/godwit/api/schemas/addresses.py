"""Addresses of apps (spec/machines.md §1, IP assignments)."""

from godwit.api.schemas.common import In, Out, ShortText
from godwit.base import clock
from godwit.control import addresses, records


class AllocateAddress(In):
    """The kind of address that is wanted; of a private one whose machines reach it."""

    type: ShortText
    region: ShortText = ""
    org_slug: ShortText = ""
    network: ShortText = ""
    service_name: ShortText = ""

    def wanted(self) -> addresses.NewAddress:
        """Return what the service is asked."""
        return addresses.NewAddress(
            self.type, self.region, self.service_name, self.org_slug, self.network
        )


class NetworkName(Out):
    """A private network, by its name within its organization."""

    name: str
    org_slug: str


class AddressAssignment(Out):
    """An address of an app; a shared one is found by host name, a private one has a network."""

    ip: str
    type: str
    region: str
    service_name: str
    shared: bool
    created_at: str
    network: NetworkName | None = None

    @classmethod
    def of(cls, row: records.AddressAssignment) -> "AddressAssignment":
        """Return an address as the API shows it."""
        return cls(
            ip=row.ip,
            type=row.type,
            region="global",
            service_name=row.service_name,
            shared=row.type == "shared_v4",
            created_at=clock.rfc3339(row.created_at_ms),
            network=None
            if row.network_name is None
            else NetworkName(name=row.network_name, org_slug=row.network_org or ""),
        )


class AddressList(Out):
    """An app's addresses, the oldest first."""

    ips: list[AddressAssignment]
