"""A machine made anew in another place, and the old one destroyed: what draining and moves do.

    the new one is made as the old one is (at rest, started, its checks passing) ──► the last word:
    is it still wanted? ──► what stands by for the old one does so for the new one ──► requests of
    the old one end ──► it is stopped, as its config says ──► it is destroyed

So an app never has fewer machines than before, and is never served worse. The id of the new one
follows from the old one's: whichever replica goes on, at whichever step, it is the same.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection

from godwit.base import errors, principal
from godwit.control import audit, machine_actions, machines
from godwit.control.context import Context
from godwit.control.machines import Machine, NewMachine, NewVersion
from godwit.control.records import Placement
from godwit.wire import health, host_rpc

_TRIES = 20
_COMES_UP_S = 60.0
_LOOK_S = 0.5
_DRAIN_S = 30
_ME = principal.component("control")
_STOPS_S = 50.0
_RESTING = ("stopped", "suspended", "failed", "destroyed")
_GONE = frozenset({"destroyed", "destroying"})


class Relocation:
    """One machine's way to another place; begun anew at any time, it goes on where it was."""

    def __init__(
        self,
        ctx: Context,
        row: Placement,
        *,
        region: str,
        avoiding: Collection[str] = (),
        last_word: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Prepare it.

        Args:
            ctx: What control knows.
            row: Where the machine is.
            region: Where the new one will be.
            avoiding: Hosts of that region it may not be on.
            last_word: Asked with the id of the new one before anything of the old one ends; with
                `False` it is the new one that goes.
        """
        self._ctx = ctx
        self._row = row
        self._region = region
        self._avoiding = frozenset(avoiding)
        self._last_word = last_word

    async def carry_out(self) -> str:
        """Return the id of the machine that has taken the place.

        Raises:
            Failure: It stays for now; the message says why.
        """
        row = self._row
        async with self._ctx.store.read() as rows:
            app = await rows.apps.by_id(row.app_id)
            deploy = await rows.runs.unfinished_of(row.app_id)
        if app is None:
            raise errors.Failure("not_found", f"the app of machine {row.machine_id} is gone")
        if deploy is not None:
            raise errors.Failure("conflict", f"app {app.name} is being deployed")
        old = await machines.get(self._ctx, _ME, app.name, row.machine_id)
        if old.host_status != "ok":
            raise errors.Failure("unavailable", f"host {machines.host_of(row)} does not answer")
        if old.view.state in _GONE:
            raise errors.Failure("conflict", f"machine {row.machine_id} is {old.view.state}")
        new_id = await self._take_place(app.name, row, old)
        if not await self._last_word(new_id):
            await machine_actions.destroy(self._ctx, _ME, app.name, new_id, force=True)
            raise errors.Failure("conflict", "it is not wanted any more")
        await self._stand_by_for(app.name, row.machine_id, new_id)
        await self._drain(row)
        if old.view.state == "started":
            await self._stop(app.name, row.machine_id)
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
                host=row.host_id,
            )
        return new_id

    async def _take_place(self, app: str, row: Placement, old: Machine) -> str:
        """Ensure that the new machine is there and well; return its id."""
        runs = old.view.state == "started"
        for number in range(_TRIES):
            wanted = NewMachine(
                config=old.view.config,
                region=self._region,
                avoiding=self._avoiding,
                skip_launch=not runs,
                cordoned=old.view.cordoned,
                machine_id=successor(row.machine_id, number),
            )
            try:
                new = await machines.create(self._ctx, _ME, app, wanted)
            except machines.GivenUp:
                continue
            if new.destroyed or new.view.state in _GONE or new.view.region != self._region:
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

    async def _stop(self, app: str, machine_id: str) -> None:
        """Let the old machine's app say goodbye, which being destroyed with force does not.

        Raises:
            Failure: `deadline_exceeded` when it takes longer; the next sweep goes on with that.
        """
        resting = host_rpc.WaitRequest(machine_id=machine_id, states=_RESTING, timeout_s=_STOPS_S)
        try:
            await machine_actions.stop(self._ctx, _ME, app, machine_id, machine_actions.Grace())
            await machine_actions.wait(self._ctx, _ME, app, resting)
        except errors.Failure as failure:
            # One that is gone meanwhile has nobody to say goodbye to.
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


async def give_up(ctx: Context, app: str, machine_id: str) -> None:
    """Destroy what was made to take a machine's place.

    Raises:
        Failure: It cannot be destroyed now.
    """
    for number in range(_TRIES):
        async with ctx.store.read() as rows:
            made = await rows.placements.get(successor(machine_id, number))
        if made is None:
            return
        if made.destroyed_at_ms is None and made.host_id is not None:
            await machine_actions.destroy(ctx, _ME, app, made.machine_id, force=True)


def successor(machine_id: str, number: int) -> str:
    """Return the id of the machine that takes another one's place, at the given try."""
    return hashlib.sha256(f"moved {machine_id} {number}".encode()).hexdigest()[:14]
