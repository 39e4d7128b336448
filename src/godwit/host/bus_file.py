"""The file of this host's bus server, kept to the members there are.

Written before the server starts, from what this host's disk knows of the cluster, and again
whenever that changes; the running server reads it anew and cuts whoever is no member any more.
"""

import hashlib
import hmac
import logging
import signal
from collections.abc import Iterable

from godwit.base import private_files
from godwit.base.settings import Settings
from godwit.host import bus_config, membership, running
from godwit.host.identity import HostIdentity, Keys
from godwit.wire.facts import MemberFact

logger = logging.getLogger(__name__)

CLUSTER_PORT_ABOVE = 2_000
"""A server takes the others of its region at this many ports above its clients': 6222."""


def text(
    settings: Settings, who: HostIdentity, keys: Keys, members: Iterable[MemberFact] = ()
) -> str:
    """Return the file's content for these members, removed ones among them, and this host."""
    everybody = list(members)
    # What this host knows of itself is newer than what it was told.
    users = [bus_config.this_member(who, keys)] + [
        bus_config.Member(one.host_id, one.region, one.keys)
        for one in everybody
        if one.host_id != who.host_id and one.state != "removed"
    ]
    server = bus_config.Server(
        who.host_id,
        who.region,
        settings.listen.bus,
        settings.paths.data / "bus",
        _cluster(settings, who, keys, everybody),
    )
    return bus_config.render(server, users)


def refresh(
    settings: Settings, who: HostIdentity, keys: Keys, members: Iterable[MemberFact]
) -> bool:
    """Have file and server follow the members; return whether anything changed."""
    path = settings.paths.run / "bus.conf"
    before = path.read_text() if path.exists() else ""
    now = text(settings, who, keys, members)
    if now == before:
        return False
    private_files.write(path, now)
    server = running.read(settings.paths.run / "pids" / "bus.json")
    if server is not None:
        # A server becomes one of several only at its start; the supervisor starts it again.
        becomes = ("cluster {" in now) != ("cluster {" in before)
        server.signal(signal.SIGTERM if becomes else signal.SIGHUP)
        logger.info("the bus %s", "is started again" if becomes else "reads its users anew")
    return True


def _cluster(
    settings: Settings, who: HostIdentity, keys: Keys, members: Iterable[MemberFact]
) -> bus_config.Cluster | None:
    """Return how this server finds the others of its region, if it is one of several."""
    everybody = {one.host_id: one for one in members}
    me = everybody.get(who.host_id)
    mine = None if me is None else me.services.get("bus")
    serving = membership.bus_servers(everybody.values(), who.region)
    others = [at for at in serving if at != mine]
    if mine is None or mine not in serving or not others:
        return None
    secret = cluster_secret(keys)
    if not secret:
        logger.error("there is no cluster.secret: this region's bus servers stay apart")
        return None
    return bus_config.Cluster(
        listen=above(settings.listen.bus),
        routes=tuple(map(above, others)),
        secret=secret,
        votes=votes_password(secret),
        reached_at=above(mine),
        clients_at=mine,
    )


def cluster_secret(keys: Keys) -> str:
    """Return what a region's bus servers know each other by; empty where there is none."""
    path = keys.directory / "cluster.secret"
    return path.read_text().strip() if path.exists() else ""


def votes_password(secret: str) -> str:
    """Return the password of who takes servers' votes: every bus host of the region knows it."""
    return hmac.digest(secret.encode(), b"votes of bus servers", hashlib.sha256).hex()


def above(address: str) -> str:
    """Return where the server whose clients are taken there takes other servers."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + CLUSTER_PORT_ABOVE}"
