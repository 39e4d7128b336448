"""`/v1/apps/{app}/secrets`, and what Godwit adds: how far each has come, keys made anew."""

from typing import Annotated

from fastapi import Path, Query

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.secrets import (
    RootKeys,
    Secret,
    SecretList,
    SecretSet,
    SecretsSet,
    SecretStatus,
    SecretStatuses,
    SecretsVersion,
    SetSecret,
    SetSecrets,
)
from godwit.control import secret_keys, secret_status, secrets

ROUTER = router("Secrets")

_ALL = "/v1/apps/{app_name}/secrets"
_ONE = "/v1/apps/{app_name}/secrets/{secret_name}"
_Name = Annotated[str, Path(max_length=255)]
_Version = Annotated[int | None, Query(ge=0, lt=2**63)]


@ROUTER.get(
    _ALL,
    operation_id="Secrets_list",
    openapi_extra=needs("secrets:read"),
    responses=ERRORS,
    response_model_exclude_none=True,
)
async def list_secrets(
    ctx: Ctx,
    who: Who,
    app_name: str,
    min_version: _Version = None,
    version: _Version = None,
    *,
    show_secrets: bool = False,
) -> SecretList:
    """List an app's secrets; their values only to who has `secrets:read_values`."""
    least = min_version if version is None else version
    return SecretList.of(
        await secrets.listed(ctx, who, app_name, values=show_secrets, least=least)
    )


@ROUTER.post(
    _ALL,
    operation_id="Secrets_update",
    openapi_extra=needs("secrets:write"),
    responses=ERRORS,
    response_model_exclude_none=True,
)
async def set_secrets(ctx: Ctx, who: Who, app_name: str, body: SetSecrets) -> SecretsSet:
    """Set and remove secrets; machines get them with their next update."""
    return SecretsSet.of(await secrets.change(ctx, who, app_name, body.wanted()))


@ROUTER.get(
    _ONE,
    operation_id="Secret_get",
    openapi_extra=needs("secrets:read"),
    responses=ERRORS,
    response_model_exclude_none=True,
)
async def get_secret(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, *, show_secrets: bool = False
) -> Secret:
    """Show one secret."""
    found = await secrets.get(ctx, who, app_name, secret_name, value=show_secrets)
    return Secret.of(found.secrets[0], found.shown.get(secret_name))


@ROUTER.post(
    _ONE,
    operation_id="Secret_create",
    openapi_extra=needs("secrets:write"),
    responses=ERRORS,
    response_model_exclude_none=True,
    status_code=201,
)
async def set_secret(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: SetSecret
) -> SecretSet:
    """Set one secret."""
    found = await secrets.change(ctx, who, app_name, body.wanted(secret_name))
    return SecretSet.made(found, secret_name)


@ROUTER.delete(
    _ONE, operation_id="Secret_delete", openapi_extra=needs("secrets:write"), responses=ERRORS
)
async def delete_secret(ctx: Ctx, who: Who, app_name: str, secret_name: _Name) -> SecretsVersion:
    """Remove one secret; also one that is not there."""
    found = await secrets.change(ctx, who, app_name, secrets.Values({secret_name: None}))
    return SecretsVersion(version=found.version, Version=found.version)


@ROUTER.get(
    "/x/v1/apps/{app_name}/secrets",
    operation_id="Godwit_list_secrets",
    openapi_extra=needs("secrets:read"),
    responses=ERRORS,
)
async def list_statuses(ctx: Ctx, who: Who, app_name: str) -> SecretStatuses:
    """List an app's secrets and whether its machines have them."""
    found = await secret_status.of_app(ctx, who, app_name)
    return SecretStatuses(
        version=found.version, secrets=[SecretStatus.of(one) for one in found.secrets]
    )


@ROUTER.post(
    "/x/v1/apps/{app_name}/secrets/rotate",
    operation_id="Godwit_rotate_secrets",
    openapi_extra=needs("secrets:write"),
    responses=ERRORS,
)
async def rotate_secrets(ctx: Ctx, who: Who, app_name: str) -> SecretsVersion:
    """Encrypt an app's secrets with another key; no machine notices."""
    found = await secret_keys.rotate_app(ctx, who, app_name)
    return SecretsVersion(version=found.version, Version=found.version)


@ROUTER.post(
    "/x/v1/keyring/rotate",
    operation_id="Godwit_rotate_root_key",
    openapi_extra=needs("keyring:rotate"),
    responses=ERRORS,
)
async def rotate_root_key(ctx: Ctx, who: Who) -> RootKeys:
    """Make another root key and wrap all apps' keys with it; for the operator."""
    return RootKeys.of(await secret_keys.rotate_root(ctx, who))
