"""`/x/v1/registries`: an organization's credentials for registries that are not the platform's."""

from typing import Annotated

from fastapi import Path, Query

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.registries import Registry, RegistryList, RegistryLogin
from godwit.control import registry_credentials

ROUTER = router("Registries")

_Slug = Annotated[str, Query(max_length=63)]
_Host = Annotated[str, Path(max_length=255)]


@ROUTER.get(
    "/x/v1/registries",
    operation_id="Godwit_list_registries",
    openapi_extra=needs("orgs:read"),
    responses=ERRORS,
)
async def list_registries(ctx: Ctx, who: Who, org_slug: _Slug) -> RegistryList:
    """List the registries an organization has credentials for, never their secrets."""
    found = await registry_credentials.listed(ctx, who, org_slug)
    return RegistryList(registries=[Registry.of(row) for row in found])


@ROUTER.put(
    "/x/v1/registries/{registry}",
    operation_id="Godwit_login_registry",
    openapi_extra=needs("orgs:write"),
    responses=ERRORS,
)
async def login_registry(ctx: Ctx, who: Who, registry: _Host, body: RegistryLogin) -> Registry:
    """Keep credentials for a registry, after the registry took them."""
    kept = await registry_credentials.login(ctx, who, body.org_slug, body.wanted(registry))
    return Registry.of(kept)


@ROUTER.delete(
    "/x/v1/registries/{registry}",
    operation_id="Godwit_logout_registry",
    openapi_extra=needs("orgs:write"),
    responses=ERRORS,
    status_code=204,
)
async def logout_registry(ctx: Ctx, who: Who, registry: _Host, org_slug: _Slug) -> None:
    """Forget credentials for a registry."""
    await registry_credentials.logout(ctx, who, org_slug, registry)
