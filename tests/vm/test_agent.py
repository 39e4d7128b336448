"""The whole agent on a real host: real taps, real VMs, killed and started again."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import app, books
from godwit.agent.machines import parking, views
from godwit.base import clock, principal, tasks
from godwit.durable import database, journal
from godwit.images import collection
from godwit.images.config import ImageConfig
from godwit.images.store import AtRest, LocalImage
from godwit.testing import agents
from godwit.wire import host_rpc
from tests.host import network_lab as lab
from tests.vm import vm_lab
from tests.vm.traces import nothing_but, traces

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

M = "00000000000a0a"
WHO = principal.component("control")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
RESOURCES = {"memory_mb": 192}


class OneImage:
    """The image that the lab made, whatever is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ensure(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        config = ImageConfig(cmd=("sh", "-c", "echo ready; sleep 1000"), env=(f"PATH={PATH}",))
        if image.tag == "empty":
            config = ImageConfig()
        return LocalImage(image.digest, self._path, config, 1)

    def has(self, digest: str) -> bool:
        return True

    def at_rest(self) -> tuple[AtRest, ...]:
        return ()

    def note_use(self, digest: str) -> None:
        """Nothing here goes for want of use."""

    def space(self) -> collection.Space:
        return collection.Space(total_bytes=1, free_bytes=1)

    async def remove(self, digest: str, *, unless: Callable[[], bool]) -> bool:
        return False

    def when_full(self, make_room: Callable[[], Awaitable[None]]) -> None:
        """The lab's disk is never full."""


class Life:
    """One life of the agent over the lab's host."""

    def __init__(self, here: vm_lab.Host, owned: tasks.Tasks) -> None:
        store = here.places.store
        self.tasks = owned
        self.clock = ClockAhead()
        self.database = database.Database(store / "agent.db", app.SCHEMA)
        self.parts = app.Parts(
            identity=views.Identity("a1b2c3d4", "lcl", "0000", 1),
            capacity=books.Capacity(4096, 2, 16, 100),
            images=OneImage(here.image),
            network=here.network,
            vmm=here.another_vmm(),
            clock=self.clock,
            database=self.database,
            catalog_socket=here.places.run_dir / "catalog.sock",
        )
        self.app = app.App(self.parts, owned)

    async def call(self, verb: str, **body: Any) -> dict[str, Any]:
        answer = await self.app.handlers()[verb](WHO, json.loads(json.dumps(body)))
        return answer if isinstance(answer, dict) else answer.model_dump(mode="json")

    async def create(self, script: str | None = None, **changes: Any) -> dict[str, Any]:
        config = {"init": {"cmd": ["sh", "-c", script]}} if script else {}
        changes["config"] = {**config, **changes.get("config", {})}
        offer = agents.offer(M, resources=RESOURCES, **changes)
        return await self.call("machine.reserve", **offer.model_dump(mode="json"))

    async def reach(self, *states: str, **more: Any) -> dict[str, Any]:
        return await self.call("machine.wait", machine_id=M, states=states, timeout_s=240, **more)

    async def view(self) -> dict[str, Any]:
        return await self.call("machine.get", machine_id=M)

    async def now(self, state: str) -> dict[str, Any]:
        """Wait until this is the present state."""
        try:
            async with asyncio.timeout(240):
                while (view := await self.view())["state"] != state:
                    await self.app.machines.get(WHO, M).next_change()
        except TimeoutError as error:
            raise AssertionError(f"it is not {state}: {await self.view()}") from error
        return view

    async def lines(self, wanted: str) -> list[str]:
        """Wait until a line is in the log; return all of them."""
        async with asyncio.timeout(120):
            while True:
                answer = await self.call("logs.read", app_id="app_a", limit=1000)
                lines = [line["message"] for line in answer["lines"]]
                if wanted in lines:
                    return lines
                await asyncio.sleep(0.1)

    def vmm_pid(self) -> int:
        pids = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and _runs(entry, f"godwit-{M}")
        ]
        (pid,) = pids
        return pid


def _runs(process: Path, name: str) -> bool:
    with contextlib.suppress(OSError):
        return name.encode() in (process / "cmdline").read_bytes().split(b"\0")
    return False


@contextlib.asynccontextmanager
async def life(here: vm_lab.Host, *, ahead_ms: int = 0) -> AsyncIterator[Life]:
    """Yield a running agent; at the end it dies, and its machines live on."""
    async with tasks.Tasks("agent") as owned:
        made = Life(here, owned)
        made.clock.ahead_ms = ahead_ms
        await made.app.start()
        yield made
    await made.database.close()


@contextlib.asynccontextmanager
async def host() -> AsyncIterator[vm_lab.Host]:
    """Yield the lab's host; at the end its machine is destroyed, and nothing of it is left."""
    async with vm_lab.host() as here:
        before = await traces(here)
        try:
            yield here
            await destroy_and_forget(here)
            await nothing_but(before, here)
        finally:
            await park(here)
            assert await here.vmm.observed() == frozenset()


async def destroy_and_forget(here: vm_lab.Host) -> None:
    """Destroy the machine and let days pass."""
    async with life(here) as last:
        found = last.app.machines.find(M)
        if found is None:
            return
        await found.ask("kill", {"signal": "SIGKILL", "timeout_ms": 0})
        await last.now("destroyed")
    async with life(here, ahead_ms=3 * 86_400_000) as much_later, asyncio.timeout(120):
        while much_later.app.machines.find(M) is not None:
            await asyncio.sleep(0.05)


class ClockAhead(clock.SystemClock):
    """The machine's clock, turned forward by hand."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


async def park(here: vm_lab.Host) -> int:
    """Do what `godwit down` does."""
    async with tasks.Tasks("park") as owned:
        made = Life(here, owned)
        count = await parking.park(
            app.make_host(made.parts), journal.Journal(made.database, made.parts.clock)
        )
    await made.database.close()
    return count


@lab.own_namespace
async def test_a_machine_lives_and_is_gone_without_a_trace() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        reached = await agent.reach("started")
        assert reached["state"] == "started"
        said = await agent.call("machine.exec", machine_id=M, command=["env"], timeout_s=120)
        assert f"FLY_MACHINE_ID={M}\n" in said["stdout"]
        assert "ready" in await agent.lines("ready")
        await agent.call("machine.stop", machine_id=M)
        view = await agent.now("stopped")
        told = view["events"][0]["request"]["exit_event"]
        assert view["events"][0]["type"] == "exit"
        assert told["requested_stop"] is True
        assert await here.network.observed() == frozenset()
        assert await here.vmm.observed() == frozenset()
        await agent.call("machine.start", machine_id=M)
        await agent.reach("started")
        await agent.call("machine.destroy", machine_id=M, force=True)
        await agent.reach("destroyed")
        assert await here.network.observed() == frozenset()
        assert here.groups.members(M) == frozenset()


@lab.own_namespace
async def test_the_next_agent_takes_over_with_the_exit_and_the_logs_meanwhile() -> None:
    script = "echo one; while ! [ -e /tmp/go ]; do sleep 0.2; done; echo two; exit 42"
    async with host() as here:
        async with life(here) as first:
            await first.create(script, config={"restart": {"policy": "no"}})
            await first.reach("started")
            await first.lines("one")
            await first.call(
                "machine.exec", machine_id=M, command=["touch", "/tmp/go"], timeout_s=120
            )
        async with asyncio.timeout(120):
            while await here.vmm.observed():
                await asyncio.sleep(0.1)
        async with life(here) as second:
            view = await second.now("stopped")
            assert view["events"][0]["request"]["exit_event"]["exit_code"] == 42
            lines = await second.lines("two")
            assert lines.index("one") < lines.index("two")
            assert "Main child exited normally with code: 42" in lines


@lab.own_namespace
async def test_the_next_agent_adopts_a_machine_that_runs() -> None:
    async with host() as here:
        async with life(here) as first:
            await first.create()
            await first.reach("started")
            pid = first.vmm_pid()
        async with life(here) as second:
            assert (await second.view())["state"] == "started"
            assert second.vmm_pid() == pid
            said = await second.call(
                "machine.exec", machine_id=M, command=["hostname"], timeout_s=120
            )
            assert said["stdout"] == f"{M}\n"


@lab.own_namespace
async def test_a_killed_vmm_is_seen_reported_and_brought_back() -> None:
    async with host() as here, life(here) as agent:
        await agent.create()
        await agent.reach("started")
        os.kill(agent.vmm_pid(), signal.SIGKILL)
        await agent.now("restarting")
        view = await agent.now("started")
        exits = [event for event in view["events"] if event["type"] == "exit"]
        told = exits[0]["request"]["exit_event"]
        assert (told["exit_code"], told["signal"], told["restarting"]) == (137, 9, True)


@lab.own_namespace
async def test_what_cannot_run_fails_with_a_sentence_and_leaves_nothing() -> None:
    async with host() as here, life(here) as agent:
        await agent.create(image={**agents.image(), "tag": "empty"})
        view = await agent.now("failed")
        assert view["sentence"] == "image has neither ENTRYPOINT nor CMD; set one or init.exec"
        update = agents.update(
            M, "01NEW", config={"init": {"exec": ["no-such-program"]}}, resources=RESOURCES
        )
        await agent.call("machine.update", **update)
        view = await agent.now("failed")
        assert "no-such-program" in view["sentence"]
        assert await here.network.observed() == frozenset()
        assert await here.vmm.observed() == frozenset()


@lab.own_namespace
async def test_parked_machines_come_back() -> None:
    async with host() as here:
        async with life(here) as first:
            await first.create()
            await first.reach("started")
        assert await park(here) == 1
        assert await here.vmm.observed() == frozenset()
        assert await here.network.observed() == frozenset()
        async with life(here) as second:
            await second.now("started")
            types = [event["type"] for event in (await second.view())["events"]]
            assert types == ["start", "launch", "exit", "start", "launch"]
