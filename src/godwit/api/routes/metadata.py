"""`/v1/apps/{app}/machines/{id}/metadata`: changed without making a version."""

from typing import Annotated

from fastapi import Path

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.metadata import PatchMetadata, SetValue, Value
from godwit.control import metadata

ROUTER = router("Metadata")

_METADATA = "/v1/apps/{app_name}/machines/{machine_id}/metadata"
_KEY = f"{_METADATA}/{{key}}"

Key = Annotated[str, Path(max_length=1000)]


@ROUTER.get(
    _METADATA,
    operation_id="Machines_show_metadata",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def show_metadata(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> dict[str, str]:
    """Show a machine's metadata."""
    return await metadata.get(ctx, who, app_name, machine_id)


@ROUTER.patch(
    _METADATA,
    operation_id="Machines_patch_metadata",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
    status_code=204,
)
async def patch_metadata(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, body: PatchMetadata
) -> None:
    """Set and remove keys; those left out stay."""
    await metadata.patch(ctx, who, app_name, machine_id, _wanted(body))


@ROUTER.put(
    _METADATA,
    operation_id="Machines_put_metadata",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
    status_code=204,
    deprecated=True,
)
async def put_metadata(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, body: PatchMetadata
) -> None:
    """Do as PATCH does: keys left out stay."""
    await metadata.patch(ctx, who, app_name, machine_id, _wanted(body))


@ROUTER.get(
    _KEY,
    operation_id="Machines_get_metadata_key",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def get_metadata_key(ctx: Ctx, who: Who, app_name: str, machine_id: str, key: Key) -> Value:
    """Show one value of a machine's metadata."""
    return Value(value=await metadata.value(ctx, who, app_name, machine_id, key))


@ROUTER.post(
    _KEY,
    operation_id="Machines_set_metadata_key",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
    status_code=204,
)
async def set_metadata_key(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, key: Key, *, body: SetValue
) -> None:
    """Set one value of a machine's metadata."""
    wanted = metadata.Patch({key: body.value}, updated_at=body.updated_at)
    await metadata.patch(ctx, who, app_name, machine_id, wanted)


@ROUTER.delete(
    _KEY,
    operation_id="Machines_delete_metadata_key",
    openapi_extra=needs("machines:write", own=True),
    responses=ERRORS,
    status_code=204,
)
async def delete_metadata_key(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, key: Key
) -> None:
    """Remove one key of a machine's metadata; one that is not there is gone already."""
    await metadata.patch(ctx, who, app_name, machine_id, metadata.Patch({key: None}))


def _wanted(body: PatchMetadata) -> metadata.Patch:
    return metadata.Patch(body.metadata, body.machine_version, body.updated_at)
