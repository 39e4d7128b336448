"""Random requests, exits and crashes against a small model.

The model knows only what must hold: no lie in the world, at rest the stored state is the truth
about what exists, and what a machine holds of its host is what its state says.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.agent.machines import lifecycle
from godwit.base import errors
from godwit.testing import agents, clock
from godwit.testing.world import Boot, Killed
from godwit.wire import shim

IDS = ["0000000000000a", "0000000000000b"]
BOOTS = st.builds(
    Boot,
    outcome=st.sampled_from(["runs", "runs", "runs", "dies", "hangs", "refuses"]),
    boot_s=st.sampled_from([0.0, 1.0, 20.0]),
    exit_after_s=st.sampled_from([None, None, 0.0, 3.0]),
    exit_code=st.sampled_from([0, 1]),
    ignores_stop=st.booleans(),
)


@dataclass(frozen=True)
class Act:
    """One thing that happens."""

    what: str
    machine: str = IDS[0]
    value: Any = None


MACHINES = st.sampled_from(IDS)
ACTS = st.one_of(
    st.builds(Act, st.just("create"), MACHINES, st.booleans()),
    st.builds(Act, st.just("ask"), MACHINES, st.sampled_from(lifecycle.REQUESTS)),
    st.builds(Act, st.just("ask"), MACHINES, st.sampled_from(["start", "stop", "update"])),
    st.builds(Act, st.just("exit"), MACHINES, st.sampled_from([0, 1])),
    st.builds(Act, st.just("break"), MACHINES),
    st.builds(Act, st.just("lose"), MACHINES),
    st.builds(Act, st.just("script"), MACHINES, BOOTS),
    st.builds(Act, st.just("fault"), MACHINES, st.sampled_from(["network.plumb", "vmm.discard"])),
    st.builds(Act, st.just("sleep"), MACHINES, st.sampled_from([0.0, 0.5, 5.0, 100.0])),
    st.builds(Act, st.just("kill agent"), MACHINES, st.integers(0, 8)),
    st.builds(Act, st.just("restart host"), MACHINES),
    st.builds(Act, st.just("cordon"), MACHINES, st.booleans()),
)


class Play:
    """One host, and whoever is its agent now."""

    def __init__(self, host: agents.FakeHost, agent: agents.Agent) -> None:
        self.host = host
        self.agent = agent
        self.versions = 0

    async def act(self, act: Act) -> None:
        """Do one thing; what is refused is refused."""
        doing = getattr(self, f"_{act.what.replace(' ', '_')}")
        await doing(act.machine, act.value)

    async def _create(self, machine_id: str, skip_launch: bool) -> None:
        await self._wait(self.agent.create(machine_id, skip_launch=skip_launch))

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

    async def _script(self, machine_id: str, boot: Boot) -> None:
        self.host.world.scripts[machine_id].append(boot)

    async def _fault(self, _: str, verb: str) -> None:
        self.host.world.faults[verb].append(OSError("busy"))

    async def _sleep(self, _: str, seconds: float) -> None:
        await self.host.clock.sleep(seconds)

    async def _restart_host(self, *_: None) -> None:
        await self.agent.kill()
        self.host.machinery.restart_host()
        self.agent = await self.host.agent()

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
        await self.host.clock.sleep(2)
        await self.agent.kill()
        self.agent = await self.host.agent()

    def check_now(self) -> None:
        """Check what must hold at any moment."""
        assert self.host.world.lies == []
        for machine_id in self.host.world.vms:
            driver = self.agent.machines.find(machine_id)
            assert driver is not None
            if driver.run is None:
                assert driver.snapshot.shown == "started", machine_id
        stored = {row["machine_id"]: row for row in self.host.rows("SELECT * FROM machines")}
        for driver in self.agent.machines:
            row = stored[driver.machine.machine_id]
            assert row["state"] == driver.machine.state
            assert bool(row["cordoned"]) == driver.machine.cordoned

    async def check_at_rest(self) -> None:
        """Check what must hold once nothing goes on any more."""
        world = self.host.world
        for script in world.scripts.values():
            script.clear()
        for faults in world.faults.values():
            faults.clear()
        for driver in self.agent.machines:
            await self.agent.rest(driver.machine.machine_id)
        await self.host.clock.sleep(2)
        for driver in self.agent.machines:
            await self.agent.rest(driver.machine.machine_id)
        assert self.host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL") == []
        alive = [each.machine for each in self.agent.machines if each.machine.state == "started"]
        assert sorted(world.vms) == sorted(machine.machine_id for machine in alive)
        assert world.taps == {machine.slot for machine in alive}
        assert sorted(world.prepared) == sorted(world.vms)
        held = sum(machine.resources.memory_mb + 16 for machine in alive)
        assert self.agent.books.free_memory_mb == self.host.capacity.memory_mb - held
        open_intervals = self.host.rows("SELECT * FROM usage WHERE ended_at_ms IS NULL")
        assert sorted(row["machine_id"] for row in open_intervals) == sorted(world.vms)
        self._check_history()

    def _check_history(self) -> None:
        for machine_id in IDS:
            rows = self.host.rows(
                f"SELECT record FROM events WHERE machine_id = '{machine_id}' ORDER BY id"
            )
            types = [json.loads(row["record"])["type"] for row in rows]
            launched = started = False
            for name in types:
                if name == "launch":
                    launched = True
                elif name == "start":
                    assert (launched, started) == (True, False), types
                    launched, started = False, True
                elif name == "exit":
                    started = False


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
@given(st.lists(ACTS, min_size=3, max_size=25))
def test_whatever_happens_the_state_that_is_shown_is_true_at_rest(acts: list[Act]) -> None:
    async def whole() -> None:
        host = agents.FakeHost()
        try:
            play = Play(host, await host.agent())
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
