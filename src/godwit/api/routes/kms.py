"""`/v1/apps/{app}/secretkeys`: keys that are used by name and never shown."""

from typing import Annotated

from fastapi import Path, Query

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas import kms as schemas
from godwit.api.schemas.common import ERRORS
from godwit.base import errors
from godwit.control import kms

ROUTER = router("Secrets")

_ALL = "/v1/apps/{app_name}/secretkeys"
_ONE = "/v1/apps/{app_name}/secretkeys/{secret_name}"
_Name = Annotated[str, Path(max_length=255)]
_Version = Annotated[int | None, Query(ge=0, lt=2**63)]


@ROUTER.get(
    _ALL,
    operation_id="Secretkeys_list",
    openapi_extra=needs("secrets:read"),
    responses=ERRORS,
    response_model_exclude_none=True,
)
async def list_keys(
    ctx: Ctx,
    who: Who,
    app_name: str,
    *,
    min_version: _Version = None,
    version: _Version = None,
    types: Annotated[str | None, Query(max_length=500)] = None,
) -> schemas.SecretKeyList:
    """List an app's secret keys; `types` is a list parted by commas."""
    wanted = frozenset(kms.TYPES) if not types else schemas.types(types)
    if not wanted:
        raise errors.invalid(f"types: there are {', '.join(kms.TYPES)}")
    least = min_version if version is None else version
    found = await kms.listed(ctx, who, app_name, types=wanted, least=least)
    return schemas.SecretKeyList(secret_keys=[schemas.SecretKey.of(row) for row in found])


@ROUTER.get(
    _ONE,
    operation_id="Secretkey_get",
    openapi_extra=needs("secrets:read"),
    responses=ERRORS,
    response_model_exclude_none=True,
)
async def get_key(
    ctx: Ctx,
    who: Who,
    app_name: str,
    secret_name: _Name,
    *,
    min_version: _Version = None,
    version: _Version = None,
) -> schemas.SecretKey:
    """Show one secret key."""
    least = min_version if version is None else version
    return schemas.SecretKey.of(await kms.get(ctx, who, app_name, secret_name, least=least))


@ROUTER.post(
    _ONE,
    operation_id="Secretkey_set",
    openapi_extra=needs("secrets:write"),
    responses=ERRORS,
    response_model_exclude_none=True,
    status_code=201,
)
async def import_key(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: schemas.ImportKey
) -> schemas.SecretKeySet:
    """Import a secret key, also in the place of one of that type."""
    wanted = kms.NewKey(secret_name, body.type, body.value)
    return schemas.SecretKeySet.made(*await kms.make(ctx, who, app_name, wanted))


@ROUTER.post(
    f"{_ONE}/generate",
    operation_id="Secretkey_generate",
    openapi_extra=needs("secrets:write"),
    responses=ERRORS,
    response_model_exclude_none=True,
    status_code=201,
)
async def generate_key(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: schemas.GenerateKey
) -> schemas.SecretKeySet:
    """Make a random secret key, also in the place of one of that type."""
    wanted = kms.NewKey(secret_name, body.type)
    return schemas.SecretKeySet.made(*await kms.make(ctx, who, app_name, wanted))


@ROUTER.delete(
    _ONE,
    operation_id="Secretkey_delete",
    openapi_extra=needs("secrets:write"),
    responses=ERRORS,
)
async def delete_key(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name
) -> schemas.SecretKeysVersion:
    """Delete a secret key; what it encrypted is lost."""
    return schemas.SecretKeysVersion(version=await kms.delete(ctx, who, app_name, secret_name))


@ROUTER.post(
    f"{_ONE}/encrypt",
    operation_id="Secretkey_encrypt",
    openapi_extra=needs("secrets:use"),
    responses=ERRORS,
)
async def encrypt(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: schemas.Encrypt
) -> schemas.Ciphertext:
    """Encrypt with a secret key."""
    wanted = kms.Use("encrypt", body.plaintext, associated_data=body.associated_data)
    made = await kms.use(ctx, who, app_name, secret_name, wanted)
    return schemas.Ciphertext(ciphertext=schemas.encoded(made))


@ROUTER.post(
    f"{_ONE}/decrypt",
    operation_id="Secretkey_decrypt",
    openapi_extra=needs("secrets:use"),
    responses=ERRORS,
)
async def decrypt(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: schemas.Decrypt
) -> schemas.Plaintext:
    """Decrypt with a secret key."""
    wanted = kms.Use("decrypt", body.ciphertext, associated_data=body.associated_data)
    made = await kms.use(ctx, who, app_name, secret_name, wanted)
    return schemas.Plaintext(plaintext=schemas.encoded(made))


@ROUTER.post(
    f"{_ONE}/sign",
    operation_id="Secretkey_sign",
    openapi_extra=needs("secrets:use"),
    responses=ERRORS,
)
async def sign(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: schemas.Sign
) -> schemas.Signature:
    """Sign with a secret key."""
    made = await kms.use(ctx, who, app_name, secret_name, kms.Use("sign", body.plaintext))
    return schemas.Signature(signature=schemas.encoded(made))


@ROUTER.post(
    f"{_ONE}/verify",
    operation_id="Secretkey_verify",
    openapi_extra=needs("secrets:use"),
    responses=ERRORS,
    status_code=204,
)
async def verify(
    ctx: Ctx, who: Who, app_name: str, secret_name: _Name, body: schemas.Verify
) -> None:
    """Tell by 204 that a signature is right; 400 when it is not."""
    wanted = kms.Use("verify", body.plaintext, signature=body.signature)
    await kms.use(ctx, who, app_name, secret_name, wanted)
