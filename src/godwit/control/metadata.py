"""A machine's metadata: keys and values of its user's, changed without making a version."""

from collections.abc import Mapping
from dataclasses import dataclass

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import machine_actions, machines
from godwit.control.context import Context
from godwit.wire import host_rpc


@dataclass(frozen=True)
class Patch:
    """What a caller wants changed.

    Attributes:
        values: `None` or an empty string removes the key; keys left out stay.
        machine_version: Refused unless the machine is at this version.
        updated_at: Refused unless the metadata was last written then (RFC 3339).
    """

    values: Mapping[str, str | None]
    machine_version: str | None = None
    updated_at: str | None = None


async def get(ctx: Context, who: Principal, app_name: str, machine_id: str) -> dict[str, str]:
    """Return a machine's metadata."""
    machine = await machines.get(ctx, who, app_name, machine_id)
    found: dict[str, str] = machine.view.config.get("metadata") or {}
    return found


async def value(ctx: Context, who: Principal, app_name: str, machine_id: str, key: str) -> str:
    """Return one value.

    Raises:
        Failure: `not_found`.
    """
    found = (await get(ctx, who, app_name, machine_id)).get(key)
    if found is None:
        raise errors.not_found(f"machine {machine_id} has no metadata {key!r}")
    return found


async def patch(
    ctx: Context, who: Principal, app_name: str, machine_id: str, wanted: Patch
) -> None:
    """Set and remove keys.

    Raises:
        Failure: `invalid_argument`; `failed_precondition` when machine or metadata are not as
            the caller thinks.
    """
    request = host_rpc.MetadataPatch(
        machine_id=machine_id,
        metadata=dict(wanted.values),
        machine_version=wanted.machine_version,
        updated_at=wanted.updated_at,
    )
    await machine_actions.act(
        ctx,
        who,
        app_name,
        machine_id,
        verb="metadata.patch",
        body=request.model_dump(mode="json"),
        detail={"keys": sorted(wanted.values)},
    )
    # What control shows while the host is away, and to whoever lists an organization.
    await machines.refresh(ctx, machine_id)
