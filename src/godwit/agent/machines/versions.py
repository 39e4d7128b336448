"""Versions of a machine: its last configs that were in place (spec/machines.md §3.2).

Written with the machine's record, in one transaction (`holdings.keep_version`); read here.
"""

from collections.abc import Sequence

from godwit.agent.machines import holdings, views
from godwit.base import clock, encoded, errors
from godwit.durable.database import Writer
from godwit.wire import host_rpc

REPLACED = "replaced"
_ANSWER_BYTES = 393_216


async def all_of(database: Writer, snapshot: views.Snapshot) -> list[host_rpc.Version]:
    """Return a machine's versions, the newest first, one that is on its way included."""
    kept = await _kept(database, snapshot)
    found = [host_rpc.Version(version=each.instance_id, user_config=each.config) for each in kept]
    if snapshot.version != snapshot.machine.instance_id:
        coming = host_rpc.Version(version=snapshot.version, user_config=snapshot.config)
        found.insert(0, coming)
    return found


def fitting(found: Sequence[host_rpc.Version]) -> Sequence[host_rpc.Version]:
    """Return the first of some versions, as many as an answer holds; at least one."""
    left = _ANSWER_BYTES
    for at, each in enumerate(found):
        left -= encoded.size(each)
        if left < 0 and at:
            return found[:at]
    return found


async def replaced(
    database: Writer, snapshot: views.Snapshot, present: host_rpc.MachineView, version: str
) -> host_rpc.MachineView:
    """Return a machine as it was configured at an old version, in the state `replaced`.

    Raises:
        Failure: `not_found`: it never was at that version, or too long ago.
    """
    for each in await _kept(database, snapshot):
        if each.instance_id == version:
            return present.model_copy(
                update={
                    "instance_id": version,
                    "state": REPLACED,
                    "sentence": f"replaced by {present.instance_id}",
                    "image": each.image,
                    "config": each.config,
                    "updated_at": clock.rfc3339(each.created_at_ms),
                    "checks": (),
                }
            )
    raise errors.not_found(
        f"machine {present.machine_id} has no version {version!r}",
        hint=f"the last {holdings.KEPT_VERSIONS} versions are kept",
    )


async def _kept(database: Writer, snapshot: views.Snapshot) -> list[holdings.Kept]:
    machine = snapshot.machine
    kept = await database.read(lambda tx: holdings.versions(tx, machine.machine_id))
    if any(each.instance_id == machine.instance_id for each in kept):
        return kept
    # Put in place by a release that kept none.
    present = holdings.Kept(
        instance_id=machine.instance_id,
        image=machine.image,
        config=machine.config,
        created_at_ms=machine.updated_at_ms,
    )
    return [present, *kept]
