"""`/x/v1/hosts` and `/x/v1/host-tokens`: the servers of the cluster, for the operator."""

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.hosts import (
    CreateJoinToken,
    Host,
    HostList,
    HostMesh,
    JoinTokenList,
    NewJoinToken,
    OpenJoinToken,
    RemovedHost,
)
from godwit.control import hosts, joining, mesh

ROUTER = router("Hosts")


@ROUTER.get(
    "/x/v1/hosts",
    operation_id="Godwit_list_hosts",
    openapi_extra=needs("hosts:read"),
    responses=ERRORS,
)
async def list_hosts(ctx: Ctx, who: Who) -> HostList:
    """List the hosts."""
    return HostList(hosts=[Host.of(host) for host in await hosts.visible(ctx, who)])


@ROUTER.get(
    "/x/v1/hosts/{host_id}",
    operation_id="Godwit_get_host",
    openapi_extra=needs("hosts:read"),
    responses=ERRORS,
)
async def show_host(ctx: Ctx, who: Who, host_id: str) -> Host:
    """Show a host, a removed one too."""
    return Host.of(await hosts.show(ctx, who, host_id))


@ROUTER.get(
    "/x/v1/hosts/{host_id}/mesh",
    operation_id="Godwit_get_host_mesh",
    openapi_extra=needs("hosts:read"),
    responses=ERRORS,
)
async def show_mesh(ctx: Ctx, who: Who, host_id: str) -> HostMesh:
    """Show how a host reaches all others, as its agent sees it."""
    return HostMesh.of(host_id, await mesh.seen_by(ctx, who, host_id))


@ROUTER.post(
    "/x/v1/hosts/{host_id}/cordon",
    operation_id="Godwit_cordon_host",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
    status_code=204,
)
async def cordon_host(ctx: Ctx, who: Who, host_id: str) -> None:
    """Have a host take no new machines; those it has stay."""
    await hosts.cordon(ctx, who, host_id)


@ROUTER.post(
    "/x/v1/hosts/{host_id}/uncordon",
    operation_id="Godwit_uncordon_host",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
    status_code=204,
)
async def uncordon_host(ctx: Ctx, who: Who, host_id: str) -> None:
    """Have a host take machines again; draining ends."""
    await hosts.uncordon(ctx, who, host_id)


@ROUTER.post(
    "/x/v1/hosts/{host_id}/drain",
    operation_id="Godwit_drain_host",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
    status_code=204,
)
async def drain_host(ctx: Ctx, who: Who, host_id: str) -> None:
    """Have a host's machines moved to others of its region, one after another."""
    await hosts.drain(ctx, who, host_id)


@ROUTER.delete(
    "/x/v1/hosts/{host_id}",
    operation_id="Godwit_remove_host",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
)
async def remove_host(ctx: Ctx, who: Who, host_id: str, *, force: bool = False) -> RemovedHost:
    """Take every right from a host, for ever; with force its machines are given up for lost."""
    return RemovedHost.of(await hosts.remove(ctx, who, host_id, force=force))


@ROUTER.get(
    "/x/v1/host-tokens",
    operation_id="Godwit_list_host_tokens",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
)
async def list_tokens(ctx: Ctx, who: Who) -> JoinTokenList:
    """List the tokens that servers may still join with."""
    found = await joining.open_tokens(ctx, who)
    return JoinTokenList(tokens=[OpenJoinToken.of(token) for token in found])


@ROUTER.post(
    "/x/v1/host-tokens",
    operation_id="Godwit_create_host_token",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
    status_code=201,
)
async def create_token(ctx: Ctx, who: Who, body: CreateJoinToken) -> NewJoinToken:
    """Make a token with which one server may join."""
    made, text = await joining.create_token(ctx, who, body.wanted())
    return NewJoinToken(**OpenJoinToken.of(made).model_dump(), token=text)


@ROUTER.delete(
    "/x/v1/host-tokens/{host_token_id}",
    operation_id="Godwit_revoke_host_token",
    openapi_extra=needs("hosts:write"),
    responses=ERRORS,
    status_code=204,
)
async def revoke_token(ctx: Ctx, who: Who, host_token_id: str) -> None:
    """Make a token to join with worthless."""
    await joining.revoke_token(ctx, who, host_token_id)
