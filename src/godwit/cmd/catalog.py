"""What keeps a region's bus and catalog, on each of its bus hosts: `python -m godwit.cmd.catalog`.

Has the users of this host's bus server follow the members of the cluster, keeps the mirror of
what other regions' hosts own, and takes their votes from bus servers whose hosts are removed;
where a region has several bus hosts, one of them does the latter two at a time.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from godwit.base import clock, errors, log, notify, tasks
from godwit.base.settings import Settings, read_resolved
from godwit.bus import connection, turns, votes
from godwit.bus.facts import FactStream
from godwit.bus.mirror import Mirror
from godwit.bus.regions import Regions, replicas
from godwit.host import bus_file, membership, relay
from godwit.host.identity import HostIdentity, ensure_keys
from godwit.wire.facts import MemberFact

logger = logging.getLogger("godwit.catalog")

_GATHER_S = 0.05
"""Members that change together change the file once."""
_VOTES_EVERY_S = 20.0
"""A removed server that is still up counts again at once; its host stops it within a minute."""


class Catalog:
    """The work on one host."""

    def __init__(self, settings: Settings, identity: HostIdentity) -> None:
        self._settings = settings
        self._identity = identity
        self._keys = ensure_keys(settings.paths.data, identity.roles)
        self._members = membership.read(settings.paths.data)
        self._changed = asyncio.Event()
        self._clock = clock.SystemClock()
        seed = self._keys.seed("catalog").read_text().strip()
        self._others = Regions(seed, "catalog")
        self._mirror: asyncio.Task[None] | None = None
        self._mine = False
        self._copies = 1
        self._shared = False

    async def serve(self, stopping: asyncio.Event) -> None:
        """Work until told to stop."""
        settings, region = self._settings, self._identity.region
        home = await connection.connect(
            # Another host's while this one waits for a third.
            membership.own_bus(settings, self._identity),
            self._keys.seed("catalog"),
            "catalog",
        )
        try:
            async with tasks.Tasks("catalog", grace_s=3.0) as owned:
                turn = turns.Turns(
                    home,
                    f"godwit.mirror.{region}",
                    self._identity.host_id,
                    self._clock,
                    lambda mine: self._take_turn(home, owned, mine=mine),
                )
                self._changed.set()
                owned.spawn(self._follow(FactStream(home, region)), name="members")
                owned.spawn(self._apply(home, owned), name="apply")
                owned.spawn(self._strike_off(), name="votes")
                owned.spawn(turn.run(), name="turns")
                notify.notify("READY=1")
                await stopping.wait()
        finally:
            await self._others.close()
            await home.close()

    def _share(self, owned: tasks.Tasks) -> None:
        """Have other hosts reach a bus that listens on loopback alone.

        The first host of a cluster learns only from control, once that is up, where it is reached.
        """
        listen, me = self._settings.listen.bus, self._members.get(self._identity.host_id)
        at = None if me is None else me.services.get("bus")
        if at is not None and not self._shared and membership.shares(listen, at):
            self._shared = True
            for there, here in ((at, listen), (bus_file.above(at), bus_file.above(listen))):
                owned.spawn(relay.share(there, here), name="share")

    async def _follow(self, stream: FactStream) -> None:
        """Learn of members for ever."""
        async for fact in stream.watch(["member"]):
            if isinstance(fact, MemberFact):
                merged = membership.newer(self._members, [fact])
                if merged != self._members:
                    self._members = merged
                    self._changed.set()

    async def _apply(self, home: connection.Connection, owned: tasks.Tasks) -> None:
        """Have this host's bus, and the connections to others, follow the members, for ever."""
        while True:
            await self._changed.wait()
            await self._clock.sleep(_GATHER_S)
            self._changed.clear()
            self._share(owned)
            members = list(self._members.values())
            await asyncio.to_thread(
                bus_file.refresh, self._settings, self._identity, self._keys, members
            )
            copies = replicas(membership.bus_servers(members, self._identity.region))
            if copies != self._copies:
                self._copies = copies
                if self._mirror is not None:
                    self._take_turn(home, owned, mine=True)
            await self._others.keep(
                {
                    region: [f"nats://{at}" for at in membership.bus_servers(members, region)]
                    for region in {one.region for one in members} - {self._identity.region}
                }
            )

    async def _strike_off(self) -> None:
        """Take their votes from the servers of removed hosts, for ever, in this one's turn."""
        while True:
            await self._clock.sleep(_VOTES_EVERY_S)
            gone = membership.gone_servers(self._members.values(), self._identity.region)
            secret = bus_file.cluster_secret(self._keys)
            servers = membership.own_bus(self._settings, self._identity)
            if not (self._mine and gone and secret and servers):
                continue
            password = bus_file.votes_password(secret)
            try:
                struck = await votes.strike_off(servers[0], password, gone)
            except errors.Failure as failure:
                logger.info("removed bus servers keep their votes for now: %s", failure.message)
            else:
                for name in struck:
                    logger.info("the bus server of removed host %s has no vote any more", name)

    def _take_turn(self, home: connection.Connection, owned: tasks.Tasks, *, mine: bool) -> None:
        if self._mirror is not None:
            self._mirror.cancel()
            self._mirror = None
        self._mine = mine
        if mine:
            mirror = Mirror(
                home,
                self._identity.region,
                self._others.connections,
                self._clock,
                replicas=self._copies,
            )
            self._mirror = owned.spawn(mirror.run(), name="mirror")
        logger.info("the mirror is kept %s", "here" if mine else "by another host")


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    path = settings.paths.data / "host.json"
    identity = HostIdentity.model_validate_json(path.read_text())
    await Catalog(settings, identity).serve(stopping)
    with contextlib.suppress(OSError):
        notify.notify("STOPPING=1")
    return 0


def main() -> int:
    """Read the settings and run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    log.set_up("catalog")
    try:
        return asyncio.run(run(read_resolved(arguments.settings)))
    except errors.Failure as failure:
        logger.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "")  # noqa: TRY400
    except OSError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 (the message says it all)
    return 1


if __name__ == "__main__":
    sys.exit(main())
