"""Several keyrings, one on each host that runs control: that all have the same root keys.

A new root key is made in three steps: every keyring comes to know it; one has it wrap; the others
hear that. So none ever meets what it cannot open, wherever this breaks off. Keys go from one
keyring to another sealed for its host; control and agents only carry them.
"""

import logging
from collections.abc import Callable

from godwit.base import errors, principal
from godwit.control.context import Context
from godwit.control.records import Host
from godwit.wire import keyring

logger = logging.getLogger(__name__)

_ANSWER_S = 10.0
_ME = principal.component("control")

Knows = Callable[[keyring.Roots], bool]
"""Tells whether a keyring that has these root keys knows what it is to know."""


async def several(ctx: Context) -> list[Host]:
    """Return the hosts that have keyrings; none where there is one keyring only."""
    async with ctx.store.read() as rows:
        found = [host for host in await rows.hosts.all() if "keyring" in host.roles]
    return found if len(found) > 1 else []


async def new_root(ctx: Context, hosts: list[Host]) -> keyring.Roots:
    """Make a root key that wraps from now on, on all of these hosts.

    Raises:
        Failure: A keyring does not answer or cannot take it; nothing has changed then.
    """
    prepared = await ctx.keyring.prepare_root()
    try:
        await _hand_around(ctx, hosts, lambda told: prepared.id in told.ids)
    except errors.Failure as failure:
        raise errors.Failure(
            failure.code,
            f"the root key is not made anew, as not every keyring can know it: {failure.message}",
            hint="each of them has to answer, and to run this release: `godwit host list`",
        ) from failure
    made = await ctx.keyring.promote_root(prepared)
    if not await agreed(ctx, hosts, made):
        logger.warning("not every keyring wraps by the root key %s yet", made.newest)
    return made


async def agreed(ctx: Context, hosts: list[Host], own: keyring.Roots) -> bool:
    """Have every keyring wrap by the newest root key; tell whether all do."""
    try:
        await _hand_around(ctx, hosts, lambda told: told.newest == own.newest)
    except errors.Failure as failure:
        logger.info("the keyrings are of one mind later: %s", failure.message)
        return False
    return True


async def _hand_around(ctx: Context, hosts: list[Host], knows: Knows) -> None:
    for host in hosts:
        try:
            body = await ctx.hosts.call(host.id, "keyring.roots", {}, _ME, _ANSWER_S)
            if knows(keyring.Roots.model_validate(body)):
                continue
            sealed = await ctx.keyring.hand_over(keyring.HandOver(host_key=host.sealing_key))
            asked = keyring.TakeRoots(sealed=sealed)
            body = await ctx.hosts.call(host.id, "keyring.take", asked, _ME, _ANSWER_S)
        except errors.Failure as failure:
            raise errors.Failure(failure.code, f"host {host.id}: {failure.message}") from failure
        if not knows(keyring.Roots.model_validate(body)):
            # Another replica makes one at the same time.
            raise errors.Failure("conflict", f"host {host.id} has another newest root key")
