"""What earlier deploys were to make of new groups, and did not.

A host that refuses may keep a new group from its second machine: a standby, or another one that
serves. Where the deploy does not go back, the group is there from then on, and no longer new.
"""

from collections.abc import Collection

from godwit.control.deploys import order
from godwit.control.deploys.order import Order
from godwit.control.records import RunRow
from godwit.control.rows import Rows

_RUNS = 50


async def groups(rows: Rows, app_id: str) -> frozenset[str]:
    """Return the groups that lack the second machine, by the last deploy that was to make it.

    One that was made and is gone since was somebody's decision, unless it was the way back's.
    """
    found: dict[str, bool] = {}
    for run in await rows.runs.newest(app_id, _RUNS):
        for slot in Order.model_validate(run.input).plan.create:
            if slot.key == f"{slot.group}/1" and slot.group not in found:
                found[slot.group] = await _lacks(rows, run, slot.key)
    return frozenset(group for group, lacks in found.items() if lacks)


async def _lacks(rows: Rows, run: RunRow, key: str) -> bool:
    if run.outcome == "complete":
        return False
    return _went_back(run.steps) or not await _was_made(rows, run.id, key)


def _went_back(steps: Collection[str]) -> bool:
    return "destroy_made" in steps


async def _was_made(rows: Rows, run_id: str, key: str) -> bool:
    """Tell whether a host ever accepted a machine that a run made under a key."""
    for attempt in range(order.ATTEMPTS):
        row = await rows.placements.get(order.machine_id(run_id, key, attempt))
        if row is None:
            return False
        if row.status == "accepted":
            return True
    return False
