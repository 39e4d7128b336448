"""Watches a started VM until it has ended. Called by its driver, in a task beside."""

import logging

from godwit.agent.machines import mailbox, records, work
from godwit.base import errors

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.5


async def until_ended(host: work.Host, machine: records.Machine) -> mailbox.Ended:
    """Return how the VM ended, once it has; a shim that is only away is asked again."""
    vmm, machine_id = host.vmm, machine.machine_id
    while True:
        try:
            if await _saw_the_end(host, machine_id) or machine_id not in await vmm.observed():
                record = await vmm.exit_record(machine_id, machine.instance_id)
                return mailbox.Ended(record, await vmm.ran_out(machine_id))
        except (OSError, ValueError, errors.Failure) as error:
            logger.info("%s: watching again: %s", machine_id, error)
        await host.clock.sleep(_LOOK_AGAIN_S)


async def _saw_the_end(host: work.Host, machine_id: str) -> bool:
    session = await host.vmm.connect(machine_id)
    if session is None:
        return False
    try:
        async for status in session.changes():
            if status.phase == "exited":
                return True
            host.standings.note(machine_id, status.containers)
    finally:
        host.standings.note(machine_id, ())
        await session.close()
    return False
