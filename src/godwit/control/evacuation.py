"""Empties hosts that are being drained: each machine is made anew elsewhere, then destroyed.

    on the host ──► the new one is made in the same region, as the old one is (at rest, started,
    its checks passing) ──► what stands by for the old one does so for the new one ──► requests
    of the old one end ──► the old one is destroyed

So an app never has fewer machines than before, and is never served worse. The id of the new one
follows from the old one's: whichever replica goes on, at whichever step, it is the same. A machine
whose app is being deployed waits for that; one that fits nowhere, or whose new one does not come
up, stays where it is and is tried again. Nothing is moved while the host does not answer.
"""

import asyncio
import hashlib
import logging

from godwit.base import errors, log, principal
from godwit.control import audit, machine_actions, machines
from godwit.control.context import Context
from godwit.control.machines import Machine, NewMachine, NewVersion
from godwit.control.records import Host, Placement
from godwit.wire import health

logger = logging.getLogger(__name__)

_EVERY_S = 5.0
_BATCH = 50
_AT_ONCE = 4
_TRIES = 20
_COMES_UP_S = 60.0
_LOOK_S = 0.5
_DRAIN_S = 30
_ME = principal.component("control")
_GONE = frozenset({"destroyed", "destroying"})


class Evacuation:
    """Moves machines away from draining hosts."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            try:
                await self.sweep()
            except errors.Failure as failure:
                logger.warning("draining goes on later: %s", failure.message)
            await self._ctx.clock.sleep(_EVERY_S)

    async def sweep(self) -> None:
        """Try every machine of every draining host once, a few at a time."""
        async with self._ctx.store.read() as rows:
            hosts = [host for host in await rows.hosts.all() if host.state == "draining"]
        for host in hosts:
            await self._empty(host)

    async def _empty(self, host: Host) -> None:
        after = ""
        room = asyncio.Semaphore(_AT_ONCE)
        while True:
            async with self._ctx.store.read() as rows:
                page = await rows.placements.on_host(host.id, after, _BATCH)
            await asyncio.gather(*(self._try(host, row, room) for row in page))
            if len(page) < _BATCH:
                return
            after = page[-1].machine_id

    async def _try(self, host: Host, row: Placement, room: asyncio.Semaphore) -> None:
        # In a task of its own: what is bound here ends with it.
        log.bind(**row.about)
        async with room:
            try:
                await self._move(host, row)
            except errors.Failure as failure:
                logger.warning(
                    "machine %s stays on host %s for now: %s",
                    row.machine_id,
                    host.id,
                    failure.message,
                )

    async def _move(self, host: Host, row: Placement) -> None:
        """Move a machine, or go on with it.

        Raises:
            Failure: It stays; the message says why.
        """
        async with self._ctx.store.read() as rows:
            app = await rows.apps.by_id(row.app_id)
            deploy = await rows.runs.unfinished_of(row.app_id)
            now = await rows.hosts.get(host.id)
        if app is None or app.deleted_at_ms is not None or row.destroy_wanted:
            return
        if row.status != "accepted" or now is None or now.state != "draining":
            return
        if deploy is not None:
            raise errors.Failure("conflict", f"app {app.name} is being deployed")
        old = await machines.get(self._ctx, _ME, app.name, row.machine_id)
        if old.host_status != "ok":
            raise errors.Failure("unavailable", f"host {host.id} does not answer")
        if old.view.state in _GONE:
            return
        new_id = await self._take_place(app.name, row, old)
        await self._stand_by_for(app.name, row.machine_id, new_id)
        await self._drain(row)
        await machine_actions.destroy(self._ctx, _ME, app.name, row.machine_id, force=True)
        async with self._ctx.store.write() as rows:
            await audit.record(
                rows,
                self._ctx.clock,
                _ME,
                "machines.move",
                row.machine_id,
                org_id=row.org_id,
                app=app.name,
                new=new_id,
                host=host.id,
            )
        logger.info("machine %s took the place of %s", new_id, row.machine_id)

    async def _take_place(self, app: str, row: Placement, old: Machine) -> str:
        """Ensure that the new machine is there and well; return its id."""
        runs = old.view.state == "started"
        for number in range(_TRIES):
            wanted = NewMachine(
                config=old.view.config,
                region=row.region,
                skip_launch=not runs,
                cordoned=old.view.cordoned,
                machine_id=successor(row.machine_id, number),
            )
            try:
                new = await machines.create(self._ctx, _ME, app, wanted)
            except machines.GivenUp:
                continue
            if new.destroyed or new.view.state in _GONE:
                continue
            if runs:
                await self._await_well(app, wanted.machine_id, as_well_as=old)
            return wanted.machine_id
        raise errors.Failure("unavailable", f"{_TRIES} machines in its place were given up")

    async def _await_well(self, app: str, machine_id: str, *, as_well_as: Machine) -> None:
        """Return once a machine runs, and its checks pass if the old one's do.

        Raises:
            Failure: `failed_precondition` when it will not, `deadline_exceeded` when it does not
                in time; it is asked for again by the next sweep.
        """
        time = self._ctx.clock
        ends = time.monotonic() + _COMES_UP_S
        checked = _passes(as_well_as)
        while True:
            new = await machines.get(self._ctx, _ME, app, machine_id)
            verdict = health.judge(new.view, up_s=0, smoke=False, doing=new.view.sentence)
            if verdict.word == "not well":
                raise errors.Failure(
                    "failed_precondition", f"machine {machine_id} {verdict.sentence}"
                )
            up = verdict.word == "well" if checked else new.view.state == "started"
            if up and new.host_status == "ok":
                return
            if time.monotonic() >= ends:
                raise errors.Failure(
                    "deadline_exceeded",
                    f"machine {machine_id} in its place {verdict.sentence}"
                    f" after {_COMES_UP_S:g} s",
                )
            await time.sleep(_LOOK_S)

    async def _drain(self, row: Placement) -> None:
        """Let the old machine's requests end."""
        try:
            await self._ctx.hosts.call(
                machines.host_of(row),
                "machine.drain",
                {"machine_id": row.machine_id, "timeout_s": _DRAIN_S},
                _ME,
                _DRAIN_S + self._ctx.options.act_s,
            )
        except errors.Failure as failure:
            # One that does not run has nothing to end.
            if failure.code in machines.SILENT:
                raise

    async def _stand_by_for(self, app: str, old_id: str, new_id: str) -> None:
        """Have the machines that stand by for the old one do so for the new one."""
        async with self._ctx.store.read() as rows:
            watching = await rows.standbys.watching(old_id)
        for machine_id in watching:
            standby = await machines.get(self._ctx, _ME, app, machine_id)
            watched = [new_id if one == old_id else one for one in standby.view.config["standbys"]]
            await machines.update(
                self._ctx,
                _ME,
                app,
                machine_id,
                NewVersion(
                    config=standby.view.config | {"standbys": watched},
                    skip_launch=standby.view.state != "started",
                    current_version=standby.view.instance_id,
                ),
            )


def _passes(machine: Machine) -> bool:
    return all(one.status == "passing" for one in machine.view.checks)


def successor(machine_id: str, number: int) -> str:
    """Return the id of the machine that takes another one's place, at the given try."""
    return hashlib.sha256(f"moved {machine_id} {number}".encode()).hexdigest()[:14]
