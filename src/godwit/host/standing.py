"""Whether this host still belongs: a removed one stops its machines and does not start again.

It is told by the catalog, if it still hears that, and else by the joining endpoint, which it asks
now and then. `<data>/removed.json` remembers the answer: no restart brings a machine back that
the others have given up for lost.
"""

import asyncio
import json
import logging
from pathlib import Path

from godwit.base import errors, private_files
from godwit.base.clock import Clock
from godwit.host import identity, joining, membership

logger = logging.getLogger(__name__)

_LOOK_S = 2.0
_ASK_S = 60.0


def demand(data: Path, clock: Clock) -> None:
    """Return if this host may start, as far as anybody can be asked now.

    Raises:
        Failure: `permission_denied` when it was removed.
    """
    if _known_removed(data) or _told_removed(data, clock):
        _remember(data)
        raise removed(data)


async def until_removed(data: Path, clock: Clock) -> None:
    """Return once this host was removed; never on one that did not join another's cluster."""
    asked = clock.monotonic()
    while True:
        await clock.sleep(_LOOK_S)
        gone = await asyncio.to_thread(_known_removed, data)
        if not gone and clock.monotonic() - asked >= _ASK_S:
            asked = clock.monotonic()
            gone = await asyncio.to_thread(_told_removed, data, clock)
        if gone:
            await asyncio.to_thread(_remember, data)
            return


def removed(data: Path) -> errors.Failure:
    """Return what is to be said about it."""
    return errors.Failure(
        "permission_denied",
        "this host was removed from its cluster; its machines are stopped and stay so",
        hint=f"to join again: move {data} away, then `godwit host join` with a new token",
    )


def _known_removed(data: Path) -> bool:
    if (data / "removed.json").exists():
        return True
    path = data / "host.json"
    if not path.exists():
        return False
    who = identity.HostIdentity.model_validate_json(path.read_text())
    me = membership.read(data).get(who.host_id)
    return me is not None and me.state == "removed"


def _told_removed(data: Path, clock: Clock) -> bool:
    try:
        told = joining.standing(data, clock)
    except errors.Failure as failure:
        # Cut off, or a cluster that was made anew: no reason to stop what runs.
        logger.info("whether this host still belongs is not known: %s", failure.message)
        return False
    if told is not None and told.members:
        membership.keep(data, told.members)
    return told is not None and told.state == "removed"


def _remember(data: Path) -> None:
    private_files.write(data / "removed.json", json.dumps({"v": 1}) + "\n")
