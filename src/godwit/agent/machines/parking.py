"""Putting all machines aside for `godwit down`, with the agent stopped.

Every VM is stopped in order and what it used is taken down; the records stay as they are, with
one mark beside them. At the next start the marked ones that were started come back, and
unfinished operations are finished (`recovery`).
"""

import asyncio
from dataclasses import replace

from godwit.agent.machines import config, operations, records, registry, steps, store, work
from godwit.base import tasks
from godwit.durable import journal

_PARALLEL = 64
_LONGEST_STOP_MS = 30_000
"""Nobody waits longer for one machine, whatever its config says."""
_PATIENCE_S = 60.0


async def park(host: work.Host, ledger: journal.Journal) -> int:
    """Put every machine aside and take the host's network down; return how many VMs ran."""
    the_store = store.Store(host.database)
    await the_store.set_fact("parked", "1")
    host.event_ids.not_before(await the_store.newest_event_ms())
    runs = {run.subject: run for run in await ledger.unfinished()}
    shims = await host.vmm.observed()
    taps = await host.network.observed()
    limit = asyncio.Semaphore(_PARALLEL)

    async def put_aside(machine: records.Machine) -> None:
        async with limit:
            doing = _work(host, machine, runs.get(machine.machine_id))
            stopping = _run_steps(doing, operations.STOP)
            await registry.cautiously(machine.machine_id, stopping, _PATIENCE_S)
            # Whatever came in the way: nothing of it is left running.
            clearing = _run_steps(doing, operations.TEARDOWN)
            await registry.cautiously(machine.machine_id, clearing, _PATIENCE_S)

    machines = [
        machine
        for machine in await the_store.machines()
        if machine.machine_id in shims or machine.slot in taps or machine.state == "started"
    ]
    async with tasks.Tasks("park") as owned:
        for each in [owned.spawn(put_aside(one), name=one.machine_id) for one in machines]:
            await each
    for machine_id in shims - {machine.machine_id for machine in machines}:
        await registry.cautiously(f"orphan {machine_id}", host.vmm.discard(machine_id, 0))
    await host.network.stop()
    return len(shims)


def _work(host: work.Host, machine: records.Machine, unfinished: journal.Run | None) -> work.Work:
    """Return the stop of a machine, outside of the journal: it is never resumed."""
    present = [machine]

    def told(changed: records.Machine, _: tuple[records.Event, ...]) -> None:
        present[0] = changed

    stop = config.stop(machine.config)
    run = unfinished or journal.Run(
        "park", machine.machine_id, machine.org_id, "stop", (), {}, host.clock.now_ms()
    )
    given = {"requested": True, "timeout_ms": min(stop.timeout_ms, _LONGEST_STOP_MS)}
    # What was on its way out of a suspend comes back with the disk it had.
    kind = "clear" if machine.state == "suspended" else run.kind
    return work.Work(host, replace(run, kind=kind, input=given), lambda: present[0], told)


async def _run_steps(doing: work.Work, operation: operations.Operation) -> None:
    for name in operation.steps:
        await steps.CATALOGUE[name].do(doing, {})
