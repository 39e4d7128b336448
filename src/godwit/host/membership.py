"""What a host knows of the cluster it is a member of, on its own disk.

`<data>/members.json` holds the newest member record of every host, so that a host starts, and
its neighbours find it, while the bus is away. Written when it joins and by whoever follows the
catalog (`keep`); read by what is started before the bus answers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable
from ipaddress import ip_address
from pathlib import Path

from pydantic import ValidationError

from godwit.base import private_files
from godwit.base.settings import Role, Settings
from godwit.host.identity import HostIdentity
from godwit.wire.facts import Fact, MemberFact, MemberState
from godwit.wire.members import BUS_SERVERS, BusHost, serving

_GATHER_S = 0.1


def ports(settings: Settings, roles: Collection[Role]) -> dict[str, int]:
    """Return the ports at which other hosts reach what runs here, by role."""
    listens = {
        "bus": settings.listen.bus,
        "control": settings.listen.api,
        "registry": settings.listen.registry,
    }
    return {
        role: int(address.rpartition(":")[2]) for role, address in listens.items() if role in roles
    }


def shares(listen: str, at: str | None) -> bool:
    """Tell whether what listens has to be passed on for other hosts to reach it.

    Args:
        listen: Where it listens, `host:port`.
        at: Where the others expect it; `None` when they do not.
    """
    return at is not None and ip_address(listen.rpartition(":")[0].strip("[]")).is_loopback


def read(data: Path) -> dict[str, MemberFact]:
    """Return every member this host knows of, by id; one that cannot be read is left out."""
    try:
        document = json.loads((data / "members.json").read_text())
    except (OSError, ValueError):
        return {}
    found = {}
    for each in document.get("members", []) if isinstance(document, dict) else []:
        try:
            member = MemberFact.model_validate(each)
        except ValidationError:
            # A newer release's: it is told again once the bus answers.
            continue
        found[member.host_id] = member
    return found


def newer(known: dict[str, MemberFact], told: Iterable[MemberFact]) -> dict[str, MemberFact]:
    """Return the newest record of every member."""
    merged = dict(known)
    for member in told:
        held = merged.get(member.host_id)
        if held is None or (held.epoch, held.revision) < (member.epoch, member.revision):
            merged[member.host_id] = member
    return merged


def keep(data: Path, heard: Iterable[MemberFact]) -> dict[str, MemberFact]:
    """Have the disk hold what is newer than what it holds; return all of it."""
    known = read(data)
    merged = newer(known, heard)
    if merged != known:
        document = {
            "v": 1,
            "members": [merged[key].model_dump(mode="json") for key in sorted(merged)],
        }
        private_files.write(data / "members.json", json.dumps(document, indent=1) + "\n")
    return merged


def bus_servers(members: Iterable[MemberFact], region: str) -> list[str]:
    """Return where a region's bus answers, `address:port` each, by host number.

    Args:
        members: The removed ones among them: they tell whether the region has had three servers.
        region: Which one.
    """
    return serving(
        BusHost(member.host_number, member.services["bus"], member.state == "removed")
        for member in members
        if member.region == region and "bus" in member.services
    )


def gone_servers(members: Iterable[MemberFact], region: str) -> list[str]:
    """Return the removed hosts that served a region's bus when it had several servers."""
    known = [one for one in members if one.region == region and "bus" in one.services]
    if len(known) < BUS_SERVERS:
        return []
    return sorted(one.host_id for one in known if one.state == "removed")


def controls(settings: Settings, who: str, roles: Collection[Role]) -> list[str]:
    """Return where control answers, `address:port`, the oldest host first.

    Args:
        settings: This host's.
        who: Its id.
        roles: What runs here.
    """
    members = sorted(read(settings.paths.data).values(), key=lambda member: member.host_number)
    found = {
        member.host_id: member.services["control"]
        for member in members
        if member.state != "removed" and "control" in member.services
    }
    if "control" in roles:
        found[who] = settings.listen.api
    return list(found.values())


def own_bus(settings: Settings, who: HostIdentity) -> list[str]:
    """Return where this host's components find the bus, as URLs: its own, if that serves.

    They learn of further servers from those that they are connected to.
    """
    members = read(settings.paths.data)
    active = bus_servers(members.values(), who.region)
    me = members.get(who.host_id)
    mine = None if me is None else me.services.get("bus")
    # The first host of a cluster does not hear of itself before its bus is up.
    own = "bus" in who.roles and (mine is None or mine in active)
    return [f"nats://{at}" for at in ([settings.listen.bus] if own else active)]


class Follower:
    """Holds the newest word of every member, in memory and on the host's disk.

    Attributes:
        members: By id.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._changed = asyncio.Event()
        self.members = read(data)

    def state(self, host_id: str) -> MemberState | None:
        """Return what may be done with a host; `None` when nothing is known of it."""
        member = self.members.get(host_id)
        return None if member is None else member.state

    async def follow(self, told: AsyncIterator[Fact]) -> None:
        """Take in the catalog's members, as long as it tells of them."""
        async for fact in told:
            if isinstance(fact, MemberFact):
                merged = newer(self.members, [fact])
                if merged != self.members:
                    self.members = merged
                    self._changed.set()

    async def write(self) -> None:
        """Have the disk hold what is in memory, for ever; what comes together is written once."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_S)
            self._changed.clear()
            await asyncio.to_thread(keep, self._data, list(self.members.values()))
