"""Public addresses of apps (spec/machines.md §1, IP assignments)."""

from godwit.api.schemas.common import In, Out, ShortText
from godwit.base import clock
from godwit.control import addresses, records


class AllocateAddress(In):
    """The kind of address that is wanted; organization and network are what the app has."""

    type: ShortText
    region: ShortText = ""
    org_slug: ShortText = ""
    network: ShortText = ""
    service_name: ShortText = ""

    def wanted(self) -> addresses.NewAddress:
        """Return what the service is asked."""
        return addresses.NewAddress(self.type, self.region, self.service_name)


class AddressAssignment(Out):
    """An address of an app; a shared one is found by host name."""

    ip: str
    type: str
    region: str
    service_name: str
    shared: bool
    created_at: str

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
        )


class AddressList(Out):
    """An app's addresses, the oldest first."""

    ips: list[AddressAssignment]
