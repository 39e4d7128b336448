"""Regions: the places hosts are in, what they are called, and what users write for them. Pure."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from godwit.base import errors


@dataclass(frozen=True)
class Region:
    """A place."""

    code: str
    name: str
    latitude: float
    longitude: float
    geo_region: str


# Source: spec/network.md §6. `lcl` is a host that is nowhere in particular.
_KNOWN = {
    region.code: region
    for region in (
        Region("lcl", "Local", 0.0, 0.0, ""),
        Region("ams", "Amsterdam, Netherlands", 52.3743, 4.8954, "europe"),
        Region("arn", "Stockholm, Sweden", 59.6512, 17.9178, "europe"),
        Region("bom", "Mumbai, India", 19.0974, 72.8742, "asia_pacific"),
        Region("cdg", "Paris, France", 48.8609, 2.3535, "europe"),
        Region("dfw", "Dallas, Texas (US)", 32.7783, -96.7984, "north_america"),
        Region("ewr", "Secaucus, NJ (US)", 40.7895, -74.0565, "north_america"),
        Region("fra", "Frankfurt, Germany", 50.1167, 8.6833, "europe"),
        Region("gru", "Sao Paulo, Brazil", -23.5497, -46.6544, "south_america"),
        Region("iad", "Ashburn, Virginia (US)", 39.0221, -77.4626, "north_america"),
        Region("jnb", "Johannesburg, South Africa", -26.1363, 28.2030, "africa"),
        Region("lax", "Los Angeles, California (US)", 33.9416, -118.4085, "north_america"),
        Region("lhr", "London, United Kingdom", 51.5164, -0.1257, "europe"),
        Region("nrt", "Tokyo, Japan", 35.6216, 139.7419, "asia_pacific"),
        Region("ord", "Chicago, Illinois (US)", 41.8915, -87.6304, "north_america"),
        Region("sin", "Singapore, Singapore", 1.3, 103.8, "asia_pacific"),
        Region("sjc", "San Jose, California (US)", 37.3516, -121.8967, "north_america"),
        Region("syd", "Sydney, Australia", -33.8660, 151.2069, "asia_pacific"),
        Region("yyz", "Toronto, Canada", 43.6446, -79.3842, "north_america"),
    )
}
_ALIASES = {
    "eu": ("ams", "arn", "cdg", "fra", "lhr"),
    "us": ("dfw", "ewr", "iad", "lax", "ord", "sjc"),
    "usa": ("dfw", "ewr", "iad", "lax", "ord", "sjc"),
    "na": ("dfw", "ewr", "iad", "lax", "ord", "sjc", "yyz"),
    "sa": ("gru",),
    "apac": ("bom", "nrt", "sin", "syd"),
}
_LONGEST_EXPRESSION = 200
_EARTH_KM = 6_371.0
_FIBRE_KM_PER_MS = 200.0
_DETOUR = 1.5


def is_known(code: str) -> bool:
    """Tell whether a region is one of those that everybody calls so."""
    return code in _KNOWN


def describe(code: str) -> Region:
    """Return what is known of a region."""
    return _KNOWN.get(code) or Region(code, code.upper(), 0.0, 0.0, "")


def aliases() -> dict[str, tuple[str, ...]]:
    """Return the words that stand for several regions."""
    return dict(_ALIASES)


def round_trips(origin: str) -> dict[str, int]:
    """Return how long light takes to each other known region and back, ms, at least 1.

    Empty for an origin that is nowhere in particular.
    """
    here = describe(origin)
    if not here.geo_region:
        return {}
    others = (place for place in _KNOWN.values() if place.geo_region and place != here)
    return {place.code: max(1, round(_round_trip_ms(here, place))) for place in others}


def _round_trip_ms(one: Region, other: Region) -> float:
    """Return the time along cables that are half as long again as the great circle."""
    north, south = math.radians(one.latitude), math.radians(other.latitude)
    east = math.radians(one.longitude - other.longitude)
    between = math.sin(north) * math.sin(south) + math.cos(north) * math.cos(south) * math.cos(
        east
    )
    return 2 * _EARTH_KM * math.acos(min(1.0, between)) * _DETOUR / _FIBRE_KM_PER_MS


def choose(expression: str, present: Collection[str], nearest: str) -> list[str]:
    """Return the regions an expression stands for, in order of preference.

    Args:
        expression: `fra`, `fra,ams`, `eu`, `any`; empty means the nearest.
        present: Regions that have hosts.
        nearest: The default.

    Raises:
        Failure: `invalid_argument` when it stands for no region that has hosts.
    """
    if not present:
        raise errors.Failure(
            "unavailable", "no host has joined yet", hint="start one with `godwit up`"
        )
    if len(expression) > _LONGEST_EXPRESSION:
        raise errors.invalid("region: is too long")
    first = nearest if nearest in present else min(present)
    chosen: list[str] = []
    for word in expression.lower().split(",") if expression else [first]:
        name = word.strip().strip("[]")
        if name == "any":
            chosen += [first, *sorted(present)]
        elif name == "nearest":
            chosen.append(first)
        else:
            chosen += [code for code in _ALIASES.get(name, (name,)) if code in present]
    if not chosen:
        raise errors.invalid(
            f"region: {expression!r} has no hosts; there are {', '.join(sorted(present))}"
        )
    return list(dict.fromkeys(chosen))
