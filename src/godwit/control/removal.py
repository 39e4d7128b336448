"""Deleting an app whose machines may run: asks their hosts before it lets go of them."""

from godwit.base import errors, principal
from godwit.base.principal import Principal
from godwit.control import apps, listing
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
        awake = await _awake(ctx, name)
        if awake:
            raise errors.Failure(
                "failed_precondition",
                f"app {name!r} has {len(awake)} running machines: {', '.join(awake[:_NAMED])}",
                hint="stop them first, or delete with force",
            )
    await apps.delete(ctx, who, name)


async def _awake(ctx: Context, name: str) -> list[str]:
    """Return the machines that run; their hosts know best: what facts told may be old."""
    found: list[str] = []
    after: listing.Place | None = listing.BEGINNING
    while after is not None:
        page = await listing.of_app(ctx, _ME, name, listing.Filter(), after=after)
        found += [one.view.name for one in page.machines if one.view.state not in _RESTING]
        after = page.next
    return found
