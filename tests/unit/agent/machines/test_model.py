"""Random requests, exits and crashes against a small model.

The model knows only what must hold: no lie in the world, at rest the stored state is the truth
about what exists, and what a machine holds of its host is what its state says.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.agent import publisher
from godwit.agent.machines import driver, lifecycle, scheduler, views
from godwit.base import errors
from godwit.testing import agents, clock
from godwit.testing.facts import MemoryFacts
from godwit.testing.world import Boot, Killed
from godwit.wire import facts, shim

IDS = ["0000000000000a", "0000000000000b"]
BOOTS = st.builds(
    Boot,
    outcome=st.sampled_from(["runs", "runs", "runs", "dies", "hangs", "refuses"]),
    boot_s=st.sampled_from([0.0, 1.0, 20.0]),
    exit_after_s=st.sampled_from([None, None, 0.0, 3.0]),
    exit_code=st.sampled_from([0, 1]),
    ignores_stop=st.booleans(),
    unsuspendable=st.sampled_from([False, False, True]),
)


@dataclass(frozen=True)
class Act:
    """One thing that happens."""

    what: str
    machine: str = IDS[0]
    value: Any = None


FAULTS = st.sampled_from(["network.plumb", "vmm.discard", "vmm.suspend", "vmm.resume"])
MACHINES = st.sampled_from(IDS)
ACTS = st.one_of(
    st.builds(Act, st.just("create"), MACHINES, st.booleans()),
    st.builds(Act, st.just("create on schedule"), MACHINES, st.booleans()),
    st.builds(Act, st.just("hour"), MACHINES),
    st.builds(Act, st.just("ask"), MACHINES, st.sampled_from(lifecycle.REQUESTS)),
    st.builds(Act, st.just("ask"), MACHINES, st.sampled_from(["start", "stop", "update"])),
    st.builds(Act, st.just("ask"), MACHINES, st.sampled_from(["start", "suspend"])),
    st.builds(Act, st.just("idle"), MACHINES),
    st.builds(Act, st.just("spoil"), MACHINES),
    st.builds(Act, st.just("cut"), MACHINES),
    st.builds(Act, st.just("flush"), MACHINES),
    st.builds(Act, st.just("exit"), MACHINES, st.sampled_from([0, 1])),
    st.builds(Act, st.just("break"), MACHINES),
    st.builds(Act, st.just("lose"), MACHINES),
    st.builds(Act, st.just("script"), MACHINES, BOOTS),
    st.builds(Act, st.just("fault"), MACHINES, FAULTS),
    st.builds(Act, st.just("sleep"), MACHINES, st.sampled_from([0.0, 0.5, 5.0, 100.0])),
    st.builds(Act, st.just("kill agent"), MACHINES, st.integers(0, 8)),
    st.builds(Act, st.just("restart host"), MACHINES),
    st.builds(Act, st.just("cordon"), MACHINES, st.booleans()),
    st.builds(Act, st.just("bus"), MACHINES, st.booleans()),
)
HOST = views.Identity("a1b2c3d4", "lcl", "0000", 1)


class Bus(MemoryFacts):
    """The stream of facts, which outlives agents."""

    async def ensure(self) -> None:
        """It is there."""


class Play:
    """One host, and whoever is its agent now."""

    agent: agents.Agent

    def __init__(self, host: agents.FakeHost) -> None:
        self.host = host
        self.bus = Bus()
        self.versions = 0

    async def next_agent(self) -> None:
        """Start the next agent, which publishes as the real one does."""
        self.agent = agents.Agent(self.host, None)
        self.host.agents.append(self.agent)
        told = publisher.Publisher(self.host.clock)
        self.agent.machines.on_change(
            lambda each: told.tell(each.machine.machine_id, views.fact(HOST, each.snapshot, {}))
        )
        self.agent.tasks.spawn(told.run(self.bus, self.agent.tasks), name="publish")
        await self.agent.start()

    async def act(self, act: Act) -> None:
        """Do one thing; what is refused is refused."""
        doing = getattr(self, f"_{act.what.replace(' ', '_')}")
        await doing(act.machine, act.value)

    async def _create(self, machine_id: str, skip_launch: bool) -> None:
        await self._wait(self.agent.create(machine_id, skip_launch=skip_launch))

    async def _create_on_schedule(self, machine_id: str, skip_launch: bool) -> None:
        config = {"schedule": "hourly"}
        await self._wait(self.agent.create(machine_id, skip_launch=skip_launch, config=config))

    async def _hour(self, *_: None) -> None:
        """Let an hour pass and the schedules be looked at."""
        await self.host.clock.sleep(3600)
        await self._look_at_schedules()

    async def _look_at_schedules(self) -> None:
        looking = scheduler.Scheduler(
            lambda: self.agent.machines, self.host.clock, self.agent.tasks
        )
        await looking.tick()

    async def _exit(self, machine_id: str, code: int) -> None:
        vm = self.host.world.vms.get(machine_id)
        if vm is not None and vm.phase == "running":
            self.host.machinery.guest_exits(vm, code)

    async def _break(self, machine_id: str, _: None) -> None:
        vm = self.host.world.vms.get(machine_id)
        if vm is not None:
            self.host.machinery.end(vm, cause="vmm", vmm=shim.VmmExit(signal=9))

    async def _lose(self, machine_id: str, _: None) -> None:
        self.host.machinery.lose(machine_id)

    async def _idle(self, machine_id: str, _: None) -> None:
        """Do as the proxy does with what is idle."""
        if self.agent.machines.find(machine_id) is not None:
            await self._wait(self.agent.ask(machine_id, "suspend", or_stop=True))

    async def _spoil(self, machine_id: str, _: None) -> None:
        """Make a saved state worthless, as an upgrade of the VMM does."""
        saved = self.host.world.saved.get(machine_id)
        if saved is not None:
            self.host.world.saved[machine_id] = replace(saved, usable=False)

    async def _cut(self, machine_id: str, _: None) -> None:
        """Take a tap away from under its VM; upkeep notices."""
        vm = self.host.world.vms.get(machine_id)
        if vm is not None:
            self.host.world.taps.discard(vm.plan.slot)
        await self._wait(self.agent.machines.mend())

    async def _flush(self, *_: None) -> None:
        """Take the packet policy away."""
        self.host.world.policy = False
        await self._wait(self.agent.machines.mend())

    async def _script(self, machine_id: str, boot: Boot) -> None:
        self.host.world.scripts[machine_id].append(boot)

    async def _fault(self, _: str, verb: str) -> None:
        self.host.world.faults[verb].append(OSError("busy"))

    async def _sleep(self, _: str, seconds: float) -> None:
        await self.host.clock.sleep(seconds)

    async def _restart_host(self, *_: None) -> None:
        await self.agent.kill()
        self.host.machinery.restart_host()
        await self.next_agent()

    async def _bus(self, _: str, away: bool) -> None:
        self.bus.away = away

    async def _cordon(self, machine_id: str, cordoned: bool) -> None:
        if self.agent.machines.find(machine_id) is not None:
            await self._wait(self.agent.driver(machine_id).set_cordoned(cordoned=cordoned))

    async def _ask(self, machine_id: str, request: lifecycle.Request) -> None:
        given: dict[str, Any] = {}
        if request in ("update", "replace"):
            self.versions += 1
            given["update"] = agents.update(machine_id, f"01V{self.versions:05}")
        if self.agent.machines.find(machine_id) is not None:
            await self._wait(self.agent.ask(machine_id, request, **given))

    async def _wait(self, asking: Any) -> None:
        """Ask, and leave it when no answer comes in a moment."""
        task = asyncio.get_running_loop().create_task(asking)
        await asyncio.wait({task}, timeout=0.05)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=5)
        if task.done() and not task.cancelled():
            assert isinstance(task.exception(), errors.Failure | Killed | None)

    async def _kill_agent(self, _: str, writes: int) -> None:
        """Kill the agent a few writes later, or now when nothing is written."""
        self.agent.database.kill_at = (self.agent.database.writes + writes, "after")
        # No longer than it lives: a watcher that is cut off would be begun again without end.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self.agent.killed.wait()
        await self.agent.kill()
        await self.next_agent()

    def check_now(self) -> None:
        """Check what must hold at any moment."""
        assert self.host.world.lies == []
        for machine_id in self.host.world.vms:
            owner = self.agent.machines.find(machine_id)
            assert owner is not None
            if owner.run is None:
                assert owner.snapshot.shown == "started", machine_id
        stored = {row["machine_id"]: row for row in self.host.rows("SELECT * FROM machines")}
        for each in self.agent.machines:
            row = stored[each.machine.machine_id]
            assert row["state"] == each.machine.state
            assert bool(row["cordoned"]) == each.machine.cordoned

    async def check_at_rest(self) -> None:
        """Check what must hold once nothing goes on any more."""
        world = self.host.world
        for script in world.scripts.values():
            script.clear()
        for faults in world.faults.values():
            faults.clear()
        self.bus.away = False
        for each in self.agent.machines:
            await self.agent.rest(each.machine.machine_id)
        await self.host.clock.sleep(2)
        await self.agent.machines.mend()
        for each in self.agent.machines:
            await self.agent.rest(each.machine.machine_id)
        # The publisher is another task, and pauses while the bus is away. A process may end by
        # itself meanwhile; the next one runs on, for the scripts are cleared.
        await self.host.clock.sleep(2)
        while any(each.run is not None for each in self.agent.machines):
            for each in self.agent.machines:
                await self.agent.rest(each.machine.machine_id)
            await self.host.clock.sleep(2)
        assert self.host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL") == []
        alive = [each.machine for each in self.agent.machines if each.machine.state == "started"]
        assert sorted(world.vms) == sorted(machine.machine_id for machine in alive)
        assert world.taps == {machine.slot for machine in alive}
        asleep = [each.machine for each in self.agent.machines if _sleeps(each)]
        with_disk = sorted(machine.machine_id for machine in (*alive, *asleep))
        assert sorted(world.prepared) == with_disk
        assert set(world.saved) <= {machine.machine_id for machine in asleep}
        held = sum(
            agents.takes_mb(self.host, machine.resources.memory_mb)
            for machine in (*alive, *asleep)
        )
        assert self.agent.books.free_memory_mb == self.host.capacity.memory_mb - held
        open_intervals = self.host.rows("SELECT * FROM usage WHERE ended_at_ms IS NULL")
        assert sorted(row["machine_id"] for row in open_intervals) == sorted(world.vms)
        self._check_published()
        await self._check_schedules()
        self._check_history()

    def _check_published(self) -> None:
        """Check that the world was told what is so, and every time of something newer."""
        for each in self.agent.machines:
            fact = views.fact(HOST, each.snapshot, {})
            newest = self.bus.newest[facts.subject("lcl", fact)]
            assert newest.model_copy(update={"revision": fact.revision}) == fact
        seen: dict[str, int] = {}
        for fact in self.bus.published:
            subject = facts.subject("lcl", fact)
            assert fact.revision > seen.get(subject, 0), fact
            seen[subject] = fact.revision

    async def _check_schedules(self) -> None:
        """Check that a due machine is started, or says why not, and is due later then."""
        await self.host.clock.sleep(3600)
        await self._look_at_schedules()
        await self.host.clock.sleep(0.5)
        for each in self.agent.machines:
            machine = each.machine
            alive = machine.state not in ("destroyed", "created")
            assert (machine.due_ms is not None) == (machine.config.get("schedule") is not None)
            if alive and machine.due_ms is not None:
                assert machine.due_ms > self.host.clock.now_ms()

    def _check_history(self) -> None:
        for machine_id in IDS:
            rows = self.host.rows(
                f"SELECT record FROM events WHERE machine_id = '{machine_id}' ORDER BY id"
            )
            types = [json.loads(row["record"])["type"] for row in rows]
            launched = started = False
            for name in types:
                if name in ("launch", "resume"):
                    launched = True
                elif name == "start":
                    assert (launched, started) == (True, False), types
                    launched, started = False, True
                elif name in ("exit", "suspend"):
                    started = False


def _sleeps(each: driver.Driver) -> bool:
    return each.machine.state == "suspended"


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(st.lists(ACTS, min_size=3, max_size=25))
def test_whatever_happens_the_state_that_is_shown_is_true_at_rest(acts: list[Act]) -> None:
    whatever_happens(acts)


@pytest.mark.full
@pytest.mark.timeout(900)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
@given(st.lists(ACTS, min_size=3, max_size=40))
def test_so_it_is_with_other_lives_every_time(acts: list[Act]) -> None:
    whatever_happens(acts)


def whatever_happens(acts: list[Act]) -> None:
    """Have all of it happen to one host, and check what must hold."""

    async def whole() -> None:
        host = agents.FakeHost()
        try:
            play = Play(host)
            await play.next_agent()
            await play.act(Act("create", IDS[0], value=False))
            for act in acts:
                await play.act(act)
                # One turn of the loop for an exit to be seen.
                await host.clock.sleep(0.001)
                play.check_now()
            await play.check_at_rest()
        finally:
            await host.close()

    clock.run(whole())
