"""Deploys on simulated hosts: time that passes at once, workers that are killed at any write.

Time passes where everybody waits for it and no transaction is under way, on a loop whose time
jumps (`godwit.testing.clock.VirtualLoop`): a stall of the machine takes none of it.

A kill severs a worker at a write of its run's journal: nothing it still tries reaches database or
hosts. The machines and the database go on; another worker takes over.
"""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from godwit.base import errors, tasks
from godwit.base.principal import Principal
from godwit.control import machines
from godwit.control.context import Context
from godwit.control.deploys import service, worker
from godwit.control.deploys.journal import HELD_MS
from godwit.control.records import RunEntry
from godwit.testing.clock import FakeClock
from godwit.testing.control import World
from godwit.testing.hosts import SimulatedHost
from godwit.testing.simulated_machine import SimulatedMachine
from godwit.wire import health, host_rpc
from godwit.wire.deploys import Options
from godwit.wire.record import Record


class Killed(Exception):
    """The worker is dead: nothing it does has an effect any more."""


class ScriptedHost(SimulatedHost):
    """A simulated host whose machines do what their image or command says.

    Images: `…crash…` exits with 1 again and again, `…sick…` fails its checks. Commands: `exit N`
    ends with that code, `hang` does not end.

    Attributes:
        troubles: How often the next requests of a verb are refused, and with what.
        after: Called after each answer, with the verb and the body.
    """

    def __init__(self, host_id: str, **given: Any) -> None:
        super().__init__(host_id, **given)
        self.troubles: dict[str, list[errors.Failure]] = {}
        self.after: list[Callable[[str, dict[str, Any]], Awaitable[None]]] = []

    async def answer(
        self, verb: str, body: dict[str, Any], who: Principal | None = None
    ) -> dict[str, Any]:
        """Answer one request, unless a trouble is due."""
        if self.troubles.get(verb):
            raise self.troubles[verb].pop()
        answer = await super().answer(verb, body, who)
        for one in list(self.after):
            await one(verb, body)
        return answer

    async def crash(self, machine_id: str) -> None:
        """Let a machine's process exit with an error, twice, and then be left alone."""
        machine = self.machines[machine_id]
        self._exit_by_itself(machine)
        self._relaunch(machine, 1)
        self._exit_by_itself(machine)
        await self._move(machine, "failed")

    async def crash_once(self, machine_id: str, restarts: int = 1) -> None:
        """Let a machine's process exit with an error, and its policy start it again."""
        machine = self.machines[machine_id]
        self._exit_by_itself(machine)
        self._relaunch(machine, restarts)
        await self._move(machine, "started")

    def _exit_by_itself(self, machine: SimulatedMachine, code: int = 1) -> None:
        self._event(machine, "exit", "stopped", exit_code=code)
        machine.events[0] = _unwanted(machine.events[0])

    def _relaunch(self, machine: SimulatedMachine, restarts: int) -> None:
        self._event(machine, "launch", "starting")
        machine.events[0] = machine.events[0].model_copy(
            update={"request": {"restart_count": restarts}}
        )
        self._event(machine, "start", "started")

    async def _launch(self, machine: SimulatedMachine) -> None:
        await super()._launch(machine)
        command = (machine.config.get("init") or {}).get("cmd") or [""]
        if command[0] == "exit":
            self._exit_by_itself(machine, int(command[1]))
            if machine.config.get("auto_destroy"):
                self._event(machine, "destroy", "destroyed")
                await self._move(machine, "destroyed")
            else:
                await self._move(machine, "stopped")
        elif "crash" in machine.offer.image.reference:
            await self.crash(machine.offer.machine_id)

    def _view(self, machine: SimulatedMachine) -> host_rpc.MachineView:
        view = super()._view(machine)
        word = "critical" if "sick" in machine.offer.image.reference else "passing"
        checks = [
            host_rpc.CheckStatus.model_validate(
                {"name": f"c{number}", "status": word, "output": word, "updated_at": "now"}
            )
            for number in range(health.configured_checks(machine.config))
        ]
        return view.model_copy(update={"checks": tuple(checks)})


def _unwanted(event: host_rpc.MachineEvent) -> host_rpc.MachineEvent:
    request = copy.deepcopy(event.request or {})
    request["exit_event"]["requested_stop"] = False
    return event.model_copy(update={"request": request})


class Mortal:
    """A store and hosts that one worker uses, until it is killed.

    Attributes:
        writes: Writes of the run's journal so far.
        kill_at: (n, when): it dies `before` or `after` its n-th.
    """

    def __init__(self, ctx: Context, kill_at: tuple[int, str] | None) -> None:
        self._ctx = ctx
        self.kill_at = kill_at
        self.writes = 0
        self.dead = asyncio.Event()

    def check(self) -> None:
        """Stop a dead worker.

        Raises:
            Killed: It is.
        """
        if self.dead.is_set():
            raise Killed

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        """Open a view."""
        self.check()
        async with self._ctx.store.read() as rows:
            yield rows

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        """Open a transaction; one that writes down something about a run may be the last."""
        self.check()
        counting = _Counting()
        async with self._ctx.store.write() as rows:
            yield _Watched(rows, counting)
            if counting.entries:
                self.writes += 1
                self._maybe_die("before")
            self.check()
        if counting.entries:
            self._maybe_die("after")

    def _maybe_die(self, when: str) -> None:
        if self.kill_at == (self.writes, when):
            self.dead.set()
            raise Killed

    async def call(
        self,
        host_id: str,
        verb: str,
        body: Record | dict[str, Any],
        principal: Principal,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Ask a host."""
        self.check()
        return await self._ctx.hosts.call(host_id, verb, body, principal, timeout_s)

    async def bids(self, *given: Any, **named: Any) -> Any:
        """Ask for bids."""
        self.check()
        return await self._ctx.hosts.bids(*given, **named)


@dataclass
class _Counting:
    entries: int = 0


class _Watched:
    """Rows that note when something is written down about a run."""

    def __init__(self, rows: Any, counting: _Counting) -> None:
        self._rows = rows
        self.runs = _WatchedRuns(rows.runs, counting)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


class _WatchedRuns:
    def __init__(self, runs: Any, counting: _Counting) -> None:
        self._runs = runs
        self._counting = counting

    def __getattr__(self, name: str) -> Any:
        if name in ("add_entry", "end", "turn"):
            self._counting.entries += 1
        return getattr(self._runs, name)


class Yard:
    """Control with deploys, on simulated hosts. For a loop whose time jumps.

    Args:
        world: Control and its surroundings.
        who: Who deploys.
        app: What is deployed.
        now_ms: The time when the loop began; `None` for the world's own.

    Attributes:
        who: Who deploys.
        clock: The time of everybody.
        host: The first host.
        mortal: What the last worker to carry something lives by.
    """

    mortal: Mortal

    def __init__(
        self, world: World, who: Principal, app: str = "shop", *, now_ms: int | None = None
    ) -> None:
        self.clock = FakeClock(world.clock.now_ms() if now_ms is None else now_ms)
        self.host = ScriptedHost(world.host.host_id, stream=world.stream, time=self.clock)
        world.hosts.by_id[self.host.host_id] = self.host
        self.world = replace(world, ctx=replace(world.ctx, clock=self.clock))
        self.who = who
        self.app = app

    @property
    def ctx(self) -> Context:
        """Control's ports and settings."""
        return self.world.ctx

    async def add_host(self, host_id: str, *, memory_mb: int = 8192) -> ScriptedHost:
        """Have another host of the same region join."""
        host = ScriptedHost(
            host_id, memory_mb=memory_mb, stream=self.world.stream, time=self.clock
        )
        await self.world.add_host(host, 65_536 + len(self.world.hosts.by_id) + 1)
        return host

    async def begin(self, definition: dict[str, Any], image: str, **options: Any) -> str:
        """Begin a deploy and return its id."""
        wanted = service.NewDeploy(definition, image, Options.model_validate(options))
        return (await service.begin(self.ctx, self.who, self.app, wanted)).row.id

    async def carry(self, kill_at: tuple[int, str] | None = None) -> Mortal:
        """Have one worker carry what is free to its end, or to its death."""
        mortal = self.mortal = Mortal(self.ctx, kill_at)
        ctx = replace(self.ctx, store=mortal, hosts=mortal)
        one = worker.Worker(ctx)
        for row in await one.claim():
            async with tasks.Tasks("test") as owned:
                carrying = owned.spawn(one.carry(row), name="carry")
                dying = owned.spawn(mortal.dead.wait(), name="die")
                await asyncio.wait({carrying, dying}, return_when=asyncio.FIRST_COMPLETED)
        return mortal

    async def make_machine(self, config: dict[str, Any]) -> None:
        """Make a machine beside those that deploys made."""
        wanted = machines.NewMachine(config=config)
        await machines.create(self.ctx, self.who, self.app, wanted)

    async def let_holds_lapse(self) -> None:
        """Let as much time pass as a dead worker's hold lasts."""
        await self.clock.sleep(HELD_MS / 1000 + 1)

    async def deploy(
        self, definition: dict[str, Any], image: str, **options: Any
    ) -> service.Deploy:
        """Deploy to the end."""
        run_id = await self.begin(definition, image, **options)
        await self.carry()
        return await self.look(run_id)

    async def look(self, run_id: str) -> service.Deploy:
        """Return a deploy."""
        return await service.get(self.ctx, self.who, self.app, run_id)

    async def entries(self, run_id: str) -> list[RunEntry]:
        """Return what was written down about a run, past all code under test."""
        async with self.world.store.read() as rows:
            return await rows.runs.entries(run_id, 0, 10_000)

    def machines(self) -> list[dict[str, Any]]:
        """Return what is on the hosts, as far as it does not depend on chance."""
        found = []
        for host in self.world.hosts.by_id.values():
            for one in host.machines.values():
                if one.state == "destroyed":
                    continue
                metadata = one.config.get("metadata") or {}
                found.append(
                    {
                        "group": metadata.get("fly_process_group"),
                        "image": one.offer.image.reference,
                        "state": one.state,
                        "cordoned": one.cordoned,
                        "version": metadata.get("fly_release_version"),
                        "standby": bool(one.config.get("standbys")),
                    }
                )
        return sorted(found, key=str)

    def leased(self) -> list[str]:
        """Return the machines somebody has the lease of."""
        now_s = self.clock.now_ms() // 1000
        return [
            one.offer.machine_id
            for host in self.world.hosts.by_id.values()
            for one in host.machines.values()
            if one.state != "destroyed" and one.held(now_s) is not None
        ]


async def refused(doing: Any) -> errors.Failure:
    """Return what a request is refused with."""
    try:
        await doing
    except errors.Failure as failure:
        return failure
    raise AssertionError("it was not refused")
