"""The agent put together over a fake host: RPC, facts, the local catalog socket, wakes, bids."""

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import app, books
from godwit.agent.machines import views
from godwit.base import errors, principal, tasks
from godwit.base.clock import SystemClock
from godwit.durable import database
from godwit.testing import agents, vmm, world
from godwit.wire import facts, host_rpc

M = "0000000000000a"
N = "0000000000000b"
WHO = principal.component("control")
USER = principal.Principal(
    subject="user:a@example.com", org_ids=frozenset({"org_a"}), scopes=principal.ALL_SCOPES
)
STRANGER = USER.model_copy(update={"org_ids": frozenset({"org_b"})})
READER = USER.model_copy(update={"scopes": frozenset({"machines:read"})})
FAST = world.Boot(boot_s=0.05, stop_s=0.02)
SERVICES = {"services": [{"internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}]}


class Bench:
    """An agent with real time, a real database and a real socket, on a fake host."""

    def __init__(self, directory: Path, owned: tasks.Tasks) -> None:
        self.world = world.World()
        self.clock = SystemClock()
        self.hands = world.Hands(self.world)
        self.machinery = vmm.Machinery(self.world, self.clock)
        self.database = database.Database(directory / "agent.db", app.SCHEMA)
        self.socket = directory / "catalog.sock"
        self.parts = app.Parts(
            identity=views.Identity("a1b2c3d4", "lcl", "0000", 7),
            capacity=books.Capacity(2048, 4, 16, 16),
            images=world.FakeImages(self.hands),
            network=world.FakeNetwork(self.hands),
            vmm=vmm.FakeVmm(self.hands, self.machinery, directory / "machines"),
            clock=self.clock,
            database=self.database,
            catalog_socket=self.socket,
        )
        self.app = app.App(self.parts, owned)
        for machine_id in (M, N):
            self.world.scripts[machine_id].extend([FAST] * 9)

    async def call(self, verb: str, who: principal.Principal = WHO, **body: Any) -> dict[str, Any]:
        answer = await self.app.handlers()[verb](who, json.loads(json.dumps(body)))
        return answer if isinstance(answer, dict) else answer.model_dump(mode="json")

    async def create(self, machine_id: str = M, **changes: Any) -> dict[str, Any]:
        offer = agents.offer(machine_id, **changes)
        return await self.call("machine.reserve", **offer.model_dump(mode="json"))

    async def reach(self, state: str, machine_id: str = M) -> dict[str, Any]:
        return await self.call("machine.wait", machine_id=machine_id, states=[state], timeout_s=5)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with tasks.Tasks("agent") as owned:
        made = Bench(tmp_path, owned)
        await made.app.start()
        async with asyncio.timeout(5):
            while not made.socket.exists():
                await asyncio.sleep(0.01)
        yield made
    await made.database.close()


class Reader:
    """An edge at the local catalog."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> "Reader":
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def next(self) -> facts.LocalFrame:
        async with asyncio.timeout(5):
            return facts.LocalFrame.model_validate_json(await self._reader.readline())

    async def until(self, kind: str) -> list[facts.LocalFrame]:
        found = [await self.next()]
        while found[-1].type != kind:
            found.append(await self.next())
        return found

    async def state(self, state: str) -> facts.MachineFact:
        while True:
            frame = await self.next()
            if isinstance(frame.fact, facts.MachineFact) and frame.fact.state == state:
                return frame.fact

    def ask(self, **what: Any) -> None:
        self.writer.write(json.dumps(what).encode() + b"\n")

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def test_a_machine_by_rpc_from_offer_to_gone(bench: Bench) -> None:
    view = await bench.create(config=SERVICES)
    assert (view["state"], view["host_id"], view["epoch"]) == ("starting", "a1b2c3d4", 7)
    assert view["config"] == SERVICES
    reached = await bench.reach("started")
    assert (reached["state"], reached["version"]) == ("started", f"01V{M}")
    view = await bench.call("machine.get", machine_id=M)
    assert [event["type"] for event in view["events"]] == ["start", "launch"]
    assert view["events"][0]["id"] == reached["event_id"]
    said = await bench.call("machine.exec", machine_id=M, command=["id", "-u"])
    assert said["stdout"] == "id -u hello"
    assert await bench.call("machine.start", machine_id=M) == {"previous_state": "started"}
    await bench.call("machine.signal", machine_id=M, signal="SIGHUP")
    assert bench.world.vms[M].signals == ["SIGHUP"]
    await bench.call("machine.cordon", machine_id=M)
    assert (await bench.call("machine.get", machine_id=M))["cordoned"] is True
    await bench.call("machine.uncordon", machine_id=M)
    await bench.call("machine.restart", machine_id=M)
    await bench.reach("started")
    await bench.call("machine.stop", machine_id=M, signal="SIGTERM", timeout_ms=1000)
    await bench.reach("stopped")
    await bench.call("machine.destroy", machine_id=M, force=False)
    await bench.reach("destroyed")
    assert (await bench.call("machine.get", machine_id=M))["state"] == "destroyed"
    history = await bench.call("machine.events", machine_id=M, limit=50)
    assert history["events"][0]["type"] == "destroy"
    usage = await bench.call("usage.read", org_id="org_a")
    assert len(usage["intervals"]) == 2


async def test_update_by_rpc_is_idempotent_by_its_version(bench: Bench) -> None:
    await bench.create()
    await bench.reach("started")
    update = agents.update(M, "01NEW", config={"env": {"A": "1"}})
    view = await bench.call("machine.update", **update)
    assert (view["instance_id"], view["state"]) == ("01NEW", "replacing")
    assert view["config"] == {"env": {"A": "1"}}
    await bench.call("machine.update", **update)
    reached = await bench.call(
        "machine.wait", machine_id=M, states=["started"], version="01NEW", timeout_s=5
    )
    assert reached["version"] == "01NEW"
    assert bench.world.asked[f"vmm.spawn:{M}"] == 2


async def test_a_wait_that_is_in_vain_says_so_in_the_words_clients_know(bench: Bench) -> None:
    await bench.create()
    await bench.reach("started")
    with pytest.raises(errors.Failure) as late:
        await bench.call("machine.wait", machine_id=M, states=["stopped"], timeout_s=0.05)
    assert late.value.code == "deadline_exceeded"
    assert late.value.message == (
        "machine failed to reach desired state, stopped, currently started"
    )
    with pytest.raises(errors.Failure) as gone:
        await bench.call(
            "machine.wait", machine_id=M, states=["started"], version="01OLD", timeout_s=5
        )
    assert gone.value.code == "conflict"


@pytest.mark.parametrize(
    "verb",
    [
        "machine.get",
        "machine.start",
        "machine.stop",
        "machine.restart",
        "machine.signal",
        "machine.destroy",
        "machine.cordon",
        "machine.uncordon",
        "machine.wait",
        "machine.exec",
        "machine.events",
        "machine.update",
    ],
)
async def test_what_a_stranger_asks_for_does_not_exist(bench: Bench, verb: str) -> None:
    await bench.create()
    body = {
        **agents.update(M, "01NEW"),
        "states": ["started"],
        "command": ["id"],
        "signal": "SIGHUP",
    }
    with pytest.raises(errors.Failure) as failed:
        await bench.call(verb, STRANGER, **body)
    assert failed.value.code == "not_found"


@pytest.mark.parametrize("verb", ["machine.start", "machine.stop", "machine.exec"])
async def test_a_reader_may_not_act(bench: Bench, verb: str) -> None:
    await bench.create()
    with pytest.raises(errors.Failure) as failed:
        await bench.call(verb, READER, machine_id=M, command=["id"])
    assert failed.value.code == "permission_denied"
    assert (await bench.call("machine.get", READER, machine_id=M))["machine_id"] == M


async def test_lists_logs_and_usage_show_only_the_principals_own(bench: Bench) -> None:
    await bench.create(M)
    await bench.create(N, org_id="org_b")
    await bench.reach("started", M)
    await bench.reach("started", N)
    mine = await bench.call("machine.list", USER, app_id="app_a")
    assert [view["machine_id"] for view in mine["machines"]] == [M]
    theirs = await bench.call("usage.read", STRANGER)
    assert {each["org_id"] for each in theirs["intervals"]} == {"org_b"}
    none = await bench.call("usage.read", STRANGER, org_id="org_a")
    assert none["intervals"] == []
    lines = await bench.call("logs.read", USER, app_id="app_a")
    assert {line["machine_id"] for line in lines["lines"]} <= {M}


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("machine.get", {}),
        ("machine.get", {"machine_id": 5}),
        ("machine.reserve", {"machine_id": M}),
        ("machine.stop", {"machine_id": M, "timeout_ms": -1}),
        ("machine.stop", {"machine_id": M, "signal": "SIGNONSENSE"}),
        ("machine.signal", {"machine_id": M, "signal": "boo"}),
        ("machine.exec", {"machine_id": M, "command": []}),
        ("machine.exec", {"machine_id": M, "command": ["id"], "timeout_s": 1e9}),
        ("logs.read", {"app_id": None}),
        ("usage.read", {"after": "x"}),
    ],
)
async def test_malformed_bodies_are_refused_in_words(
    bench: Bench, verb: str, body: dict[str, Any]
) -> None:
    await bench.create()
    with pytest.raises(errors.Failure) as failed:
        await bench.call(verb, **body)
    assert failed.value.code == "invalid_argument"
    assert failed.value.message


async def test_every_verb_of_the_contract_is_answered(bench: Bench) -> None:
    text = host_rpc.__doc__ or ""
    named = set(re.findall(r"\b(?:machine|logs|usage)\.[a-z]+", text))
    assert set(bench.app.handlers()) == named


async def test_a_stopped_machine_runs_no_commands(bench: Bench) -> None:
    await bench.create(skip_launch=True)
    await bench.reach("stopped")
    with pytest.raises(errors.Failure) as failed:
        await bench.call("machine.exec", machine_id=M, command=["id"])
    assert failed.value.code == "failed_precondition"


async def test_a_catalog_reader_gets_all_there_is_then_each_change(bench: Bench) -> None:
    await bench.create(config=SERVICES)
    await bench.reach("started")
    reader = await Reader.connect(bench.socket)
    frames = await reader.until("synced")
    kinds = sorted(frame.fact.kind for frame in frames if frame.fact is not None)
    assert kinds == ["host", "machine"]
    await bench.call("machine.stop", machine_id=M)
    stopped = await reader.state("stopped")
    assert stopped.services[0].internal_port == 8080
    assert stopped.local_ipv4 == "172.16.0.2"
    assert stopped.epoch == 7
    await bench.call("machine.destroy", machine_id=M)
    gone = await reader.state("destroyed")
    assert gone.deleted
    assert gone.revision > stopped.revision
    await reader.close()


async def test_a_wake_starts_the_machine_once_and_answers_when_it_runs(bench: Bench) -> None:
    await bench.create(skip_launch=True)
    await bench.reach("stopped")
    reader = await Reader.connect(bench.socket)
    await reader.until("synced")
    for number in range(1, 6):
        reader.ask(type="wake", id=number, machine_id=M)
    answers = []
    while len(answers) < 5:
        answers += [frame for frame in await reader.until("woken") if frame.type == "woken"]
    assert sorted(frame.id or 0 for frame in answers) == [1, 2, 3, 4, 5]
    assert bench.world.running(M)
    assert bench.world.asked[f"vmm.spawn:{M}"] == 1
    reader.ask(type="wake", id=6, machine_id=M)
    assert (await reader.until("woken"))[-1].id == 6
    await reader.close()


async def test_a_wake_that_cannot_be_says_why(bench: Bench) -> None:
    reader = await Reader.connect(bench.socket)
    await reader.until("synced")
    reader.ask(type="wake", id=1, machine_id="ffffffffffffff")
    answer = (await reader.until("error"))[-1]
    assert (answer.id, answer.message) == (1, "machine ffffffffffffff is not on this host")
    reader.ask(type="nonsense")
    assert (await reader.until("error"))[-1].message == "not a request"
    await reader.close()


async def test_a_reader_that_sends_endless_lines_is_dropped(bench: Bench) -> None:
    reader = await Reader.connect(bench.socket)
    await reader.until("synced")
    reader.writer.write(b"x" * 100_000)
    with pytest.raises((ConnectionError, ValueError)):
        await reader.until("woken")
    reader.writer.transport.abort()
    await bench.create()
    await bench.reach("started")


async def test_bids_come_from_the_books(bench: Bench) -> None:
    request = host_rpc.BidRequest(
        org_id="org_a",
        app_id="app_a",
        resources=host_rpc.Resources(memory_mb=1024),
        image_digest=agents.DIGEST,
    )
    before = await bench.app.bid(request)
    assert before.fits
    await bench.create(resources={"memory_mb": 1500})
    after = await bench.app.bid(request)
    assert not after.fits
    assert after.reasons == ("needs 1040 MB, 532 MB of 2048 MB free",)


async def test_service_checks_gate_the_fact_and_show_in_the_view(bench: Bench) -> None:
    served: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(1)
        await reader.read()
        writer.close()

    # The fake network's machine 2 is at 172.16.0.2; its check is sent to where a server is.
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    bench.parts.network.local_ipv4 = lambda _: "127.0.0.1"  # type: ignore[method-assign]
    check = {"type": "tcp", "interval": "1s", "timeout": "1s"}
    await bench.create(config={"services": [{"internal_port": port, "checks": [check]}]})
    reader = await Reader.connect(bench.socket)
    passing = False
    while not passing:
        frame = await reader.next()
        if isinstance(frame.fact, facts.MachineFact):
            passing = frame.fact.services[0].passing
            assert frame.fact.state == "started" or not passing
    view = await bench.call("machine.get", machine_id=M)
    assert view["checks"][0]["name"] == f"servicecheck-00-tcp-{port}"
    assert view["checks"][0]["status"] == "passing"
    await reader.close()
    await asyncio.sleep(0.05)
    listening.close()


async def test_the_next_agent_cuts_nobody_off_before_it_has_checked(
    bench: Bench, tmp_path: Path
) -> None:
    check = {"type": "tcp", "interval": "1s", "timeout": "60s", "grace_period": "30s"}
    await bench.create(config={"services": [{"internal_port": 8080, "checks": [check]}]})
    await bench.reach("started")
    await asyncio.sleep(0.01)
    parts = dataclasses.replace(bench.parts, catalog_socket=tmp_path / "next.sock")
    async with tasks.Tasks("next") as owned:
        following = app.App(parts, owned)
        await following.machines.recover()
        (told,) = (f for f in following.publisher.all() if isinstance(f, facts.MachineFact))
        assert told.state == "started"
        assert told.services[0].passing


async def test_a_malformed_config_does_not_keep_a_machine_from_being_told(bench: Bench) -> None:
    config = {"services": "none", "checks": [1], "metadata": 5, "restart": [], "dns": ""}
    await bench.create(config=config)
    await bench.reach("started")
    assert (await bench.call("machine.get", machine_id=M))["config"] == config
