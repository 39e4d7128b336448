"""Deleting an app whose machines may run: asks their hosts before it lets go of them."""

from godwit.base import errors, principal
from godwit.base.principal import Principal
from godwit.control import apps, machines
from godwit.control.context import Context

_RESTING = frozenset({"stopped", "suspended", "failed", "destroyed"})
_NAMED = 5
_ME = principal.component("control")


async def delete_app(ctx: Context, who: Principal, name: str, *, force: bool) -> None:
    """Delete an app and every machine of it.

    Raises:
        Failure: `failed_precondition` when machines run and `force` is not set.
    """
    async with ctx.store.read() as rows:
        await apps.require(rows, who, "apps:write", name)
    if not force:
        # Their hosts know best: what facts told may be a moment old.
        found = await machines.listed(ctx, _ME, name, machines.Filter())
        awake = [one.view.name for one in found if one.view.state not in _RESTING]
        if awake:
            raise errors.Failure(
                "failed_precondition",
                f"app {name!r} has {len(awake)} running machines: {', '.join(awake[:_NAMED])}",
                hint="stop them first, or delete with force",
            )
    await apps.delete(ctx, who, name)
