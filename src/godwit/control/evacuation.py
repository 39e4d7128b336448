"""Empties hosts that are being drained: each machine is made anew elsewhere, then destroyed.

    on the host ──► the new one is made in the same region, as the old one is (started or at
    rest), and well ──► requests of the old one end ──► the old one is destroyed

So an app never has fewer machines than before. The id of the new one follows from the old one's:
whichever replica goes on, at whichever step, it is the same. A machine whose app is being
deployed waits for that; one that fits nowhere, or whose new one does not come up, stays where it
is and is tried again. Nothing is moved while the host does not answer.
"""

import asyncio
import hashlib
import logging

from godwit.base import errors, log, principal
from godwit.control import audit, machine_actions, machines
from godwit.control.context import Context
from godwit.control.machines import Machine, NewMachine
from godwit.control.records import Host, Placement
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

_EVERY_S = 5.0
_BATCH = 50
_AT_ONCE = 4
_TRIES = 20
_COMES_UP_S = 60.0
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
        await self._release(app.name, row)
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
                await self._await_started(app, new)
            return wanted.machine_id
        raise errors.Failure("unavailable", f"{_TRIES} machines in its place were given up")

    async def _await_started(self, app: str, new: Machine) -> None:
        answer = await machine_actions.wait(
            self._ctx,
            _ME,
            app,
            host_rpc.WaitRequest(
                machine_id=new.view.machine_id,
                states=("started",),
                version=new.view.instance_id,
                timeout_s=_COMES_UP_S,
            ),
        )
        logger.debug("machine %s is %s", new.view.machine_id, answer.state)

    async def _release(self, app: str, row: Placement) -> None:
        """Let the old machine's requests end, then destroy it."""
        host_id = machines.host_of(row)
        try:
            await self._ctx.hosts.call(
                host_id,
                "machine.drain",
                {"machine_id": row.machine_id, "timeout_s": _DRAIN_S},
                _ME,
                _DRAIN_S + self._ctx.options.act_s,
            )
        except errors.Failure as failure:
            # One that does not run has nothing to end.
            if failure.code in machines.SILENT:
                raise
        await machine_actions.destroy(self._ctx, _ME, app, row.machine_id, force=True)


def successor(machine_id: str, number: int) -> str:
    """Return the id of the machine that takes another one's place, at the given try."""
    return hashlib.sha256(f"moved {machine_id} {number}".encode()).hexdigest()[:14]
