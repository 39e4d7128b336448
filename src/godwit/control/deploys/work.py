"""What a step of a deploy works with: its order, its machines, its journal.

Everything here may be done again by whoever carries the run on: a machine is made under the id
that follows from the run, an update says which version it replaces, and what is there already is
seen by looking.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from godwit.appconfig.machine import ReleaseMark
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.control import listing, machine_actions, machines
from godwit.control.context import Context
from godwit.control.deploys import configs, order
from godwit.control.deploys.holding import MachineLeases
from godwit.control.deploys.journal import Level, RunJournal
from godwit.control.deploys.listening import Listening
from godwit.control.deploys.order import Order, Settings, Slot, Update
from godwit.control.records import MachineVersion
from godwit.durable import runner
from godwit.wire import host_rpc
from godwit.wire.host_rpc import MachineView

T = TypeVar("T")

POLL_S = 0.5
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_DRAIN_MARGIN_S = 5.0
_LONGEST_DRAIN_S = 300.0


class HostAway(runner.Abort):
    """A machine's host has been silent for as long as hosts may be."""

    def __init__(self, machine_id: str, host_id: str) -> None:
        super().__init__(f"host {host_id} of machine {machine_id} does not answer", "system")
        self.host_id = host_id


@dataclass
class Work:
    """One run, as its steps see it.

    Attributes:
        listening: Which hosts are silent.
        steps: The run's steps, as they were when it began.
        marks: Marks of parts of steps: `well/<machine id>`.
        hosts: Where machines are, as far as it was looked up.
        well_starts: The start that each machine was seen to be well after, by this control.
    """

    ctx: Context
    run_id: str
    order: Order
    config: Config
    journal: RunJournal
    leases: MachineLeases
    listening: Listening
    steps: tuple[str, ...]
    marks: set[str] = field(default_factory=set)
    hosts: dict[str, str] = field(default_factory=dict)
    well_starts: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """How the deploy goes."""
        return self.order.settings

    @property
    def mark(self) -> ReleaseMark:
        """What the release's machines are marked with."""
        return ReleaseMark(self.order.release_id, self.order.version)

    async def say(
        self, level: Level, message: str, *, group: str = "", machine_id: str = ""
    ) -> None:
        """Tell people what happens."""
        await self.journal.event(level, message, group=group, machine_id=machine_id)

    async def host(self, machine_id: str) -> str:
        """Return where a machine is.

        Raises:
            Failure: `not_found`.
        """
        if machine_id not in self.hosts:
            app, who = self.order.app, self.order.who
            async with self.ctx.store.read() as rows:
                _, row = await machines.locate(rows, who, "machines:read", app, machine_id)
            self.hosts[machine_id] = machines.host_of(row)
        return self.hosts[machine_id]

    async def look(self, machine_id: str) -> MachineView:
        """Return a machine as its host shows it; one that is gone as `destroyed`.

        Raises:
            Failure: `unavailable` while its host is away.
        """
        app, who = self.order.app, self.order.who
        host_id = await self.host(machine_id)
        asked = {"machine_id": machine_id}
        try:
            body = await self.ctx.hosts.call(
                host_id, "machine.get", asked, who, self.ctx.options.ask_s
            )
        except errors.Failure as failure:
            if failure.code != "not_found":
                raise
            last = (await machines.get(self.ctx, who, app, machine_id)).view
            return last.model_copy(update={"state": "destroyed"})
        return MachineView.model_validate(body)

    async def see(self, machine_id: str) -> MachineView:
        """Return a machine as `look`, again while its host is silent.

        Raises:
            Abort: Its host is silent for as long as the deploy waits for a machine.
        """
        return await self.patiently(lambda: self.look(machine_id), self.settings.wait_timeout_s)

    async def see_unless_away(self, machine_id: str) -> MachineView:
        """Return a machine as `see`, but wait no longer than hosts may be silent.

        Raises:
            HostAway: Its host is.
        """
        limit = self.settings.wait_timeout_s
        return await self.patiently(lambda: self.look(machine_id), limit, of=machine_id)

    def away(self, machine_id: str) -> str:
        """Return the host of a machine that is silent for too long; empty for one that is not.

        As long as standbys wait, or as the deploy waits for a machine, whichever is less.
        """
        host_id = self.hosts.get(machine_id, "")
        limit = min(self.ctx.options.host_gone_s, self.settings.wait_timeout_s)
        return host_id if host_id and self.listening.silent_s(host_id) >= limit else ""

    async def former(self, update: Update) -> dict[str, Any]:
        """Return the config that a machine had when the deploy began.

        Raises:
            Abort: Nobody knows.
        """
        async with self.ctx.store.read() as rows:
            found: MachineVersion | None = await rows.placements.version(
                update.machine_id, update.version
            )
        if found is None:
            raise runner.Abort(f"nobody knows the version {update.version} of {update.machine_id}")
        if not update.metadata:
            return found.config
        return {**found.config, "metadata": update.metadata}

    def released(self, config: dict[str, Any], group: str) -> dict[str, Any]:
        """Return a machine's config under the release, from the one it had."""
        if self.order.kind == "secrets":
            return configs.marked(config, self.mark)
        made = configs.of_group(self.config, group, self.order.image, self.mark)
        return configs.updated(config, made)

    async def all_machines(self) -> list[MachineView]:
        """Return every machine of the app that is there."""
        found: list[MachineView] = []
        after = listing.BEGINNING
        while True:
            page = await listing.of_app(
                self.ctx, self.order.who, self.order.app, listing.Filter(), after=after
            )
            found += [one.view for one in page.machines]
            if page.next is None:
                return found
            after = page.next

    async def ensure(self, slot: Slot, config: dict[str, Any], *, cordoned: bool = False) -> str:
        """Ensure that a slot's machine is there, and return its id.

        Raises:
            Failure: `insufficient_capacity`, `unavailable`.
        """
        for attempt in range(order.ATTEMPTS):
            machine_id = order.machine_id(self.run_id, slot.key, attempt)
            wanted = machines.NewMachine(
                config=config,
                region=slot.region,
                skip_launch=not slot.start,
                cordoned=cordoned,
                machine_id=machine_id,
            )
            try:
                made = await machines.create(self.ctx, self.order.who, self.order.app, wanted)
            except machines.GivenUp:
                continue
            self.hosts[machine_id] = made.view.host_id
            return machine_id
        raise runner.Abort(f"no machine of {slot.group} could be made", "system")

    async def made(self, slot: Slot) -> list[str]:
        """Return the ids of what was made for a slot, living or not."""
        return await self.made_for(slot.key)

    async def made_for(self, key: str) -> list[str]:
        """Return the ids of what was made under a key: given up ones look after themselves."""
        found = []
        for attempt in range(order.ATTEMPTS):
            machine_id = order.machine_id(self.run_id, key, attempt)
            async with self.ctx.store.read() as rows:
                row = await rows.placements.get(machine_id)
            if row is None:
                break
            if row.status == "offered":
                async with self.ctx.store.write() as rows:
                    await rows.placements.abandon(machine_id)
                self.ctx.upkeep_wanted.set()
            elif row.status == "accepted" and row.destroyed_at_ms is None:
                found.append(machine_id)
        return found

    async def update(
        self, view: MachineView, config: dict[str, Any], *, start: bool
    ) -> MachineView:
        """Give a machine a config in place of the version that was looked at.

        Raises:
            Failure: `conflict` when it has another version by now, and as `machines.update`.
        """
        wanted = machines.NewVersion(
            config=config,
            skip_launch=not start,
            current_version=view.instance_id,
            nonce=self.leases.nonce(view.machine_id),
        )
        made = await machines.update(
            self.ctx, self.order.who, self.order.app, view.machine_id, wanted
        )
        return made.view

    async def act(self, machine_id: str, verb: str, **body: Any) -> None:
        """Ask a machine's host for something, under the run's lease."""
        nonce = machine_actions.under(self.leases.nonce(machine_id))
        await machine_actions.act(
            self.ctx, self.order.who, self.order.app, machine_id, verb=verb, body={**body, **nonce}
        )

    async def destroy(self, machine_id: str) -> None:
        """Ensure that a machine is gone or on its way."""
        await machine_actions.destroy(
            self.ctx,
            self.order.who,
            self.order.app,
            machine_id,
            force=True,
            nonce=self.leases.nonce(machine_id),
        )
        self.leases.forget(machine_id)

    async def want_gone(self, machine_id: str) -> None:
        """Have a machine destroyed by upkeep, as soon as its host answers."""
        async with self.ctx.store.write() as rows:
            await rows.placements.want_gone(machine_id)
        self.ctx.upkeep_wanted.set()
        self.leases.forget(machine_id)

    async def drain(self, view: MachineView) -> bool:
        """Let the edges send a machine nothing new, and what is in flight end; tell whether.

        A host that cannot is no reason to stop: the machine is then stopped as ever.
        """
        limit = min(self.settings.drain_timeout_s, _LONGEST_DRAIN_S)
        if view.state != "started" or not view.config.get("services") or limit <= 0:
            return False
        body = {
            "machine_id": view.machine_id,
            "timeout_s": limit,
            **machine_actions.under(self.leases.nonce(view.machine_id)),
        }
        try:
            answer = await self.ctx.hosts.call(
                view.host_id, "machine.drain", body, self.order.who, limit + _DRAIN_MARGIN_S
            )
        except errors.Failure:
            return False
        left = answer.get("in_flight") or 0
        if left:
            await self.say(
                "warning",
                f"{left} requests were still in flight after {limit:g}s",
                machine_id=view.machine_id,
            )
        return True

    async def undrain(self, view: MachineView) -> None:
        """Let requests in again, where a machine goes on as it was after all."""
        nonce = machine_actions.under(self.leases.nonce(view.machine_id))
        body = {"machine_id": view.machine_id, **nonce}
        with contextlib.suppress(errors.Failure):
            await self.ctx.hosts.call(
                view.host_id, "machine.undrain", body, self.order.who, self.ctx.options.ask_s
            )

    async def patiently(
        self, doing: Callable[[], Awaitable[T]], limit_s: float, *, of: str = ""
    ) -> T:
        """Do what may be repeated, again while a host or the database is silent.

        Args:
            doing: What.
            limit_s: How long.
            of: The machine whose host is not waited for any longer than hosts may be silent.

        Raises:
            Failure: What it meets besides.
            HostAway: That host is silent.
            Abort: The silence has lasted as long as the limit.
        """
        ends = self.ctx.clock.monotonic() + limit_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await doing()
            except errors.Failure as failure:
                if failure.code not in machines.SILENT:
                    raise
                host_id = self.away(of)
                if host_id:
                    raise HostAway(of, host_id) from failure
                if self.ctx.clock.monotonic() >= ends:
                    raise runner.Abort(failure.message, "system") from failure
            await self.ctx.clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def last_lines(self, machine_id: str, count: int) -> list[str]:
        """Return the last lines a machine printed; none when they cannot be had."""
        request = host_rpc.LogsRequest(
            app_id=self.order.app_id, machine_id=machine_id, limit=count
        )
        try:
            body = await self.ctx.hosts.call(
                self.hosts[machine_id],
                "logs.read",
                request,
                self.order.who,
                self.ctx.options.ask_s,
            )
        except (errors.Failure, KeyError):
            return []
        return [one.message for one in host_rpc.LogsAnswer.model_validate(body).lines][-count:]

    async def say_lines(self, machine_id: str, count: int, *, group: str = "") -> None:
        """Leave a machine's last lines in the deploy's events."""
        lines = await self.last_lines(machine_id, count)
        if lines:
            told = "\n".join(f"    {line[:500]}" for line in lines)
            await self.say(
                "error",
                f"the last lines of {machine_id}:\n{told}",
                group=group,
                machine_id=machine_id,
            )


async def together(jobs: Iterable[Coroutine[Any, Any, None]], at_once: int) -> None:
    """Do several things, so many at a time; the first that fails ends the others.

    Raises:
        Exception: What the first that failed raised.
    """
    room = asyncio.Semaphore(at_once)
    waiting = list(jobs)

    async def one(job: Coroutine[Any, Any, None]) -> None:
        async with room:
            waiting.remove(job)
            await job

    try:
        async with asyncio.TaskGroup() as group:
            for job in list(waiting):
                group.create_task(one(job))
    except BaseExceptionGroup as failed:
        raise _first(failed) from failed
    finally:
        for job in waiting:
            job.close()


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    error = failed.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
