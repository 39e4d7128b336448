"""What a lab is made of: regions, hosts, clients, delays. Pure; read from TOML or made in code."""

import math
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from godwit.base import errors
from godwit.control import regions as places

MOST_REGIONS = 16
"""As many as the underlay has prefixes for (`addressing`)."""
MOST_HOSTS = 16
MOST_CLIENTS = 8
_STRICT = ConfigDict(frozen=True, extra="forbid")
_EARTH_KM = 6_371.0
_FIBRE_KM_PER_MS = 200.0
"""Light in glass: two thirds of its speed in vacuum."""
_DETOUR = 1.5
"""How much longer cables are than the great circle: between 1.2 and 2 on most routes."""
_UNKNOWN_PLACE_MS = 10.0


class Host(BaseModel):
    """A server.

    Attributes:
        zone: Four hex digits, as `host.zone` of the product's settings.
        settings: More of the product's settings, dotted: `{"host.memory_mb": 512}`.
    """

    model_config = _STRICT

    zone: str = Field("0000", pattern=r"^[0-9a-f]{4}$")
    settings: dict[str, Any] = {}


class Region(BaseModel):
    """A place with a router, and what is connected to it."""

    model_config = _STRICT

    hosts: tuple[Host, ...] = Field((Host(),), max_length=MOST_HOSTS)
    clients: int = Field(1, ge=0, le=MOST_CLIENTS)


Code = Annotated[str, Field(pattern=r"^[a-z]{3}$")]
Way = Annotated[str, Field(pattern=r"^[a-z]{3}-[a-z]{3}$")]
Milliseconds = Annotated[float, Field(ge=0, le=10_000)]


class Plan(BaseModel):
    """A lab.

    Attributes:
        name: Tells labs of one machine apart; hosts' `instance` begins with it.
        regions: By their code of three letters.
        delays: One way, ms, by pair of regions: `{"fra-iad": 45}`, in either order. What is not
            named follows from the distance of the two places.
        settings: The product's settings on every host, dotted; a host's own go before.
    """

    model_config = _STRICT

    name: str = Field("lab", pattern=r"^[a-z][a-z0-9]{0,7}$")
    regions: dict[Code, Region] = Field(min_length=1, max_length=MOST_REGIONS)
    delays: dict[Way, Milliseconds] = {}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _delays_name_pairs_of_regions(self) -> Self:
        pairs = set(self.pairs)
        seen: set[tuple[str, str]] = set()
        for way in self.delays:
            pair = _pair(*way.split("-"))
            if pair not in pairs:
                raise ValueError(f"delays: {way} is not a pair of this lab's regions")
            if pair in seen:
                raise ValueError(f"delays: {way} is named in both orders")
            seen.add(pair)
        return self

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return every two regions, each pair once and in order."""
        codes = sorted(self.regions)
        return tuple((a, b) for at, a in enumerate(codes) for b in codes[at + 1 :])

    def delay_ms(self, a: str, b: str) -> float:
        """Return the delay between two regions, one way."""
        for way in (f"{a}-{b}", f"{b}-{a}"):
            if way in self.delays:
                return self.delays[way]
        return distance_ms(a, b)

    def hosts(self, region: str) -> dict[str, Host]:
        """Return a region's hosts by name: `fra-1`, `fra-2`."""
        return {f"{region}-{n}": host for n, host in enumerate(self.regions[region].hosts, 1)}

    @property
    def founder(self) -> str | None:
        """Return the host that others join, the first one; `None` without hosts."""
        return next((name for region in self.regions for name in self.hosts(region)), None)

    def clients(self, region: str) -> tuple[str, ...]:
        """Return the names of a region's clients: `fra-c1`, `fra-c2`."""
        return tuple(f"{region}-c{n}" for n in range(1, self.regions[region].clients + 1))

    def router(self, region: str) -> str:
        """Return the name of a region's router."""
        return f"{region}-r1"


def simple(
    name: str,
    codes: tuple[str, ...],
    *,
    hosts: int = 1,
    clients: int = 1,
    delay_ms: float | None = None,
    settings: dict[str, Any] | None = None,
) -> Plan:
    """Return a lab whose regions are all alike.

    Raises:
        Failure: `invalid_argument`, naming every mistake.
    """
    repeated = sorted({code for code in codes if codes.count(code) > 1})
    if repeated:
        raise errors.invalid(f"regions are named twice: {', '.join(repeated)}")
    alike = {"hosts": [{}] * hosts, "clients": clients}
    ordered = sorted(codes)
    delays = {f"{a}-{b}": delay_ms for at, a in enumerate(ordered) for b in ordered[at + 1 :]}
    return _validated(
        {
            "name": name,
            "regions": dict.fromkeys(codes, alike),
            "delays": delays if delay_ms is not None else {},
            "settings": settings or {},
        }
    )


def read(path: Path) -> Plan:
    """Return the plan in a TOML file.

    Raises:
        Failure: `invalid_argument`, naming every mistake.
    """
    try:
        return _validated(tomllib.loads(path.read_text()))
    except OSError as error:
        raise errors.invalid(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise errors.invalid(f"{path}: {error}") from error


def _validated(content: dict[str, Any]) -> Plan:
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise errors.invalid("this lab cannot be:\n  " + "\n  ".join(wrong)) from error


def distance_ms(a: str, b: str) -> float:
    """Return what a packet takes from one region to another, from where they are on the earth."""
    here, there = places.describe(a), places.describe(b)
    if not (here.geo_region and there.geo_region):
        return _UNKNOWN_PLACE_MS
    lat_a, lat_b = math.radians(here.latitude), math.radians(there.latitude)
    turn = math.radians(there.longitude - here.longitude)
    between = math.sin(lat_a) * math.sin(lat_b) + math.cos(lat_a) * math.cos(lat_b) * math.cos(
        turn
    )
    return round(_EARTH_KM * math.acos(min(1.0, between)) * _DETOUR / _FIBRE_KM_PER_MS, 1)


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
