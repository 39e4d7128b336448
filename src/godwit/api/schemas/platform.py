"""Regions, and where machines would go."""

from typing import Annotated

from pydantic import Field

from godwit.api.schemas.common import In, Json, Out, ShortText
from godwit.base import errors
from godwit.control import capacity, regions

Weight = Annotated[int, Field(ge=0, le=1_000_000)]


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
    mpg_available: bool = False

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


class Weights(In):
    """What counts when regions are chosen: their order, and an even spread."""

    region: Weight | None = None
    spread: Weight | None = None


class FindPlacements(In):
    """Which machines would be made: nothing is. `count` 0 is as many as fit."""

    org_slug: ShortText = ""
    region: ShortText = ""
    count: int = Field(0, ge=0, le=capacity.MOST)
    compute: Json = {}
    volume_name: ShortText = ""
    volume_size_bytes: int = Field(0, ge=0, lt=2**63)
    weights: Weights | None = None

    def wanted(self) -> capacity.Wanted:
        """Return what the service is asked."""
        if not self.org_slug:
            raise errors.invalid("org_slug: is required")
        if self.volume_name or self.volume_size_bytes:
            raise errors.invalid("volume_name: this platform has no volumes yet")
        weights = self.weights or Weights()
        default = capacity.Wanted(self.org_slug)
        return capacity.Wanted(
            self.org_slug,
            region=self.region or default.region,
            count=self.count,
            guest=self.compute or default.guest,
            region_weight=_or(weights.region, default.region_weight),
            spread_weight=_or(weights.spread, default.spread_weight),
        )


class RegionPlacement(Out):
    """What a region would get; `concurrency` of them could start at once."""

    region: str
    count: int
    concurrency: int


class Placements(Out):
    """Regions by preference."""

    regions: list[RegionPlacement]

    @classmethod
    def of(cls, found: list[capacity.RegionShare]) -> "Placements":
        """Return shares as the API shows them."""
        return cls(
            regions=[
                RegionPlacement(region=one.region, count=one.count, concurrency=one.hosts)
                for one in found
            ]
        )


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
