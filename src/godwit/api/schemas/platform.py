"""Regions and hosts."""

from godwit.api.schemas.common import Out
from godwit.control import hosts, regions


class Region(Out):
    """A region that has hosts."""

    code: str
    name: str
    geo_region: str
    latitude: float
    longitude: float
    gateway_available: bool = True
    requires_paid_plan: bool = False
    deprecated: bool = False

    @classmethod
    def of(cls, region: regions.Region) -> "Region":
        """Return a region as the API shows it."""
        return cls(
            code=region.code,
            name=region.name,
            geo_region=region.geo_region,
            latitude=region.latitude,
            longitude=region.longitude,
        )


class Regions(Out):
    """Regions, and the one that is taken by default."""

    regions: list[Region]
    nearest: str


class Host(Out):
    """A host."""

    host_id: str
    host_number: int
    region: str
    zone: str
    status: str
    free_memory_mb: int | None

    @classmethod
    def of(cls, now: hosts.HostNow) -> "Host":
        """Return a host as the API shows it."""
        return cls(
            host_id=now.host.id,
            host_number=now.host.number,
            region=now.host.region,
            zone=now.host.zone,
            status=now.status,
            free_memory_mb=now.free_memory_mb,
        )


class HostList(Out):
    """Hosts by region."""

    hosts: list[Host]
