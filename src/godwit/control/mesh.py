"""The mesh as one host sees it, for the operator."""

from dataclasses import dataclass

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control.context import Context
from godwit.wire.mesh import MeshPeer, MeshReport

_ANSWER_S = 5.0


@dataclass(frozen=True)
class Seen:
    """Another host as the asked one reaches it.

    Attributes:
        region: Empty for one that control does not know (any more).
    """

    peer: MeshPeer
    region: str


async def seen_by(ctx: Context, who: Principal, host_id: str) -> list[Seen]:
    """Return how a host reaches all others, by region.

    Raises:
        Failure: `permission_denied` for all but the operator; `not_found`;
            `failed_precondition` when it was removed; `unavailable` or `deadline_exceeded` while
            its agent does not answer.
    """
    who.require("hosts:read")
    if who.org_ids is not None:
        raise errors.Failure("permission_denied", "only the operator sees the mesh")
    async with ctx.store.read() as rows:
        host = await rows.hosts.get(host_id)
        regions = {one.id: one.region for one in await rows.hosts.all()}
    if host is None:
        raise errors.not_found(
            f"there is no host {host_id!r}", hint="list them with `godwit host list`"
        )
    if host.state == "removed":
        raise errors.Failure("failed_precondition", f"host {host_id} was removed from the mesh")
    body = await ctx.hosts.call(host_id, "mesh.report", {}, who, _ANSWER_S)
    found = [
        Seen(peer, regions.get(peer.host_id, "")) for peer in MeshReport.model_validate(body).peers
    ]
    return sorted(found, key=lambda one: (one.region, one.peer.host_number))
