"""Members of the cluster: what control tells of each host, whenever it changes.

`joining` adds them, `hosts` changes what may be done with them; every change goes through here,
and with it the member fact through the outbox. Callers set `facts_wanted` once they have
committed.
"""

from collections.abc import Sequence
from dataclasses import replace

from godwit.base import errors
from godwit.control.records import Host
from godwit.control.rows import Rows
from godwit.wire import facts
from godwit.wire.facts import MemberState
from godwit.wire.members import wireguard_key


def fact(host: Host, epoch: int) -> facts.MemberFact:
    """Return what every host is told of one."""
    return facts.MemberFact(
        epoch=epoch,
        revision=host.revision,
        host_id=host.id,
        host_number=host.number,
        region=host.region,
        zone=host.zone,
        roles=tuple(host.roles),
        keys={"host": host.public_key} | host.keys,
        mesh_key=host.mesh_key,
        mesh_next_key=host.mesh_next_key,
        endpoints=tuple(host.endpoints),
        services=host.services,
        state=host.state,
    )


async def put(rows: Rows, host: Host) -> Host:
    """Keep what a host says of itself, and tell everybody if that is anything new.

    Its number, its state and when it came stay what they were, and so do its keys in the mesh,
    which `set_mesh_keys` changes. Returns it as it is now.
    """
    known = await rows.hosts.get(host.id)
    if known is not None:
        host = replace(
            host,
            number=known.number,
            state=known.state,
            created_at_ms=known.created_at_ms,
            seen_at_ms=known.seen_at_ms,
            release=known.release,
            revision=known.revision,
            mesh_key=known.mesh_key or host.mesh_key,
            mesh_next_key=known.mesh_next_key,
        )
    if host == known and known.revision:
        return host
    host = replace(host, revision=await rows.meta.next_revision())
    await rows.hosts.put(host)
    await _tell(rows, host)
    return host


async def set_state(rows: Rows, host: Host, state: MemberState) -> Host:
    """Change what may be done with a host and tell everybody; return it as it is now."""
    host = replace(host, state=state, revision=await rows.meta.next_revision())
    await rows.hosts.set_state(host.id, state, host.revision)
    await _tell(rows, host)
    return host


async def set_mesh_keys(rows: Rows, host: Host, key: str, next_key: str) -> Host:
    """Change the keys by which others know a host in the mesh and tell everybody.

    Returns it as it is now.

    Raises:
        Failure: `invalid_argument` when one is no key, `already_exists` when it is another host's.
    """
    if (key, next_key) == (host.mesh_key, host.mesh_next_key):
        return host
    mine = {key, next_key} if next_key else {key}
    for each in mine:
        _check_key(each)
    for other in await rows.hosts.all():
        if other.id != host.id and mine & {other.mesh_key, other.mesh_next_key}:
            raise errors.Failure("already_exists", f"host {other.id} has that key in the mesh")
    revision = await rows.meta.next_revision()
    host = replace(host, mesh_key=key, mesh_next_key=next_key, revision=revision)
    await rows.hosts.put(host)
    await _tell(rows, host)
    return host


async def set_endpoints(rows: Rows, host: Host, endpoints: Sequence[str]) -> Host:
    """Change where a host's WireGuard is reached and tell everybody; return it as it is now."""
    if list(endpoints) == host.endpoints:
        return host
    revision = await rows.meta.next_revision()
    host = replace(host, endpoints=list(endpoints), revision=revision)
    await rows.hosts.put(host)
    await _tell(rows, host)
    return host


def _check_key(text: str) -> None:
    try:
        wireguard_key(text)
    except ValueError as error:
        raise errors.invalid(str(error)) from error


async def _tell(rows: Rows, host: Host) -> None:
    epoch = (await rows.meta.get()).epoch
    await rows.outbox.add(fact(host, epoch).model_dump(mode="json"))
