"""`/x/v1/tokens`, `/v1/tokens/current` and `/registry/token`."""

from typing import Annotated

from fastapi import Query, Request

from godwit.api import basic, problems
from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.tokens import (
    CreateDeployToken,
    CreateToken,
    CurrentToken,
    CurrentTokens,
    DeployToken,
    NewToken,
    RegistryToken,
    Token,
    TokenList,
)
from godwit.base import clock, errors
from godwit.control import machine_tokens, registry, registry_tokens, tokens
from godwit.control.context import Context

ROUTER = router("Tokens")


@ROUTER.get(
    "/v1/tokens/current",
    operation_id="CurrentToken_show",
    openapi_extra=needs("token", own=True),
    responses=ERRORS,
)
async def show_current(ctx: Ctx, who: Who) -> CurrentTokens:
    """Show the token that asks; without one, at `/.fly/api`, the machine that does."""
    if who.machine_id is not None:
        app = await machine_tokens.app_of(ctx, who, who.machine_id)
        current = CurrentToken(
            token_id="",
            user="",
            organization=app.org_slug,
            org_slug=app.org_slug,
            apps=[app.name],
            restricted_to_machine=who.machine_id,
            source_machine_id=who.machine_id,
        )
        return CurrentTokens(tokens=[current])
    found = await tokens.current(ctx, who)
    slug = found.slugs[0] if len(found.slugs) == 1 else ""
    current = CurrentToken(
        token_id=found.token.id,
        user=found.token.name,
        organization=slug,
        org_slug=slug,
        apps=list(found.apps),
    )
    return CurrentTokens(tokens=[current])


@ROUTER.get(
    "/x/v1/tokens",
    operation_id="Godwit_list_tokens",
    openapi_extra=needs("tokens:read"),
    responses=ERRORS,
)
async def list_tokens(
    ctx: Ctx, who: Who, org_slug: Annotated[str | None, Query(max_length=63)] = None
) -> TokenList:
    """List tokens, never their secrets."""
    found = await tokens.visible(ctx, who, org_slug=org_slug)
    return TokenList(tokens=[Token.of(token) for token in found])


@ROUTER.post(
    "/x/v1/tokens",
    operation_id="Godwit_create_token",
    openapi_extra=needs("tokens:write"),
    responses=ERRORS,
    status_code=201,
)
async def create_token(ctx: Ctx, who: Who, body: CreateToken) -> NewToken:
    """Create a token that can do no more than the one that asks."""
    found, secret = await tokens.create(ctx, who, body.wanted())
    return NewToken.made(found, secret)


@ROUTER.post(
    "/v1/apps/{app_name}/deploy_token",
    operation_id="App_create_deploy_token",
    openapi_extra=needs("tokens:write"),
    responses=ERRORS,
)
async def create_deploy_token(
    ctx: Ctx, who: Who, app_name: str, body: CreateDeployToken
) -> DeployToken:
    """Create a token that may do with this app what the one that asks may, and nothing else."""
    wanted = tokens.NewToken(
        name=f"deploy {app_name}",
        app_name=app_name,
        lifetime_s=None if body.expiry is None else body.expiry // 1000,
    )
    _, secret = await tokens.create(ctx, who, wanted)
    return DeployToken(token=secret)


@ROUTER.delete(
    "/x/v1/tokens/{token_id}",
    operation_id="Godwit_revoke_token",
    openapi_extra=needs("tokens:write"),
    responses=ERRORS,
    status_code=204,
)
async def revoke_token(ctx: Ctx, who: Who, token_id: str) -> None:
    """Make a token useless at once."""
    await tokens.revoke(ctx, who, token_id)


@ROUTER.get(
    "/registry/token",
    operation_id="Registry_token",
    openapi_extra=needs("basic"),
    responses=ERRORS,
)
async def registry_token(
    ctx: Ctx,
    request: Request,
    service: Annotated[str, Query(max_length=200)] = registry_tokens.SERVICE,
    scope: Annotated[list[str], Query(max_length=32)] = [],  # noqa: B006 - never written to
) -> RegistryToken:
    """Give a registry client its token: basic auth, any user, an API token as password."""
    _, secret = basic.credentials(request)
    who = await tokens.authenticate(ctx, secret) if secret else None
    if who is None:
        raise problems.NotAuthenticated('Basic realm="godwit"')
    if service != registry_tokens.SERVICE:
        raise errors.invalid(f"service: must be {registry_tokens.SERVICE}")
    token = await registry.grant(ctx, who, scope)
    return _registry_token(ctx, token)


def _registry_token(ctx: Context, token: str) -> RegistryToken:
    return RegistryToken(
        token=token,
        access_token=token,
        expires_in=registry.LIFETIME_S,
        issued_at=clock.rfc3339(ctx.clock.now_ms()),
    )
