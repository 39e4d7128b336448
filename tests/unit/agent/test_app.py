"""The agent put together over a fake host: RPC, facts, the local catalog socket, wakes, bids."""

import asyncio
import dataclasses
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import app
from godwit.base import errors, tasks
from godwit.testing import agents
from godwit.testing.serving import serving
from godwit.wire import facts, host_images, host_rpc, network_policies, terminals
from tests.unit.agent.bench import READER, STRANGER, USER, WHO, Bench, M, N, running

SERVICES = {"services": [{"internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}]}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        yield made


class Reader:
    """An edge at the local catalog."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> "Reader":
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def next(self) -> facts.LocalFrame:
        async with asyncio.timeout(60):
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

    async def drained(self, *, draining: bool) -> facts.MachineFact:
        while True:
            frame = await self.next()
            if isinstance(frame.fact, facts.MachineFact) and frame.fact.draining is draining:
                return frame.fact

    async def count(self, requests: int, tunnels: int = 0) -> None:
        """Answer the next count, as an edge does."""
        asked = (await self.until("count"))[-1]
        assert asked.machine_id == M
        self.ask(type="counted", id=asked.id, requests=requests, tunnels=tunnels)

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
        "machine.drain",
        "machine.undrain",
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


@pytest.mark.parametrize(
    "verb", ["machine.start", "machine.stop", "machine.exec", "machine.drain", "machine.undrain"]
)
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
        ("machine.drain", {"machine_id": M, "timeout_s": -1}),
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
    documents = (host_rpc, host_images, terminals, network_policies)
    text = " ".join(one.__doc__ or "" for one in documents)
    named = set(re.findall(r"\b(?:machine|logs|usage|images|disk|policies)(?:\.[a-z]+)+", text))
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


async def test_a_catalog_reader_hears_how_far_others_are_whenever_it_comes(bench: Bench) -> None:
    before = await Reader.connect(bench.socket)
    await before.until("synced")
    bench.app.tell_distances({"b2c3d4e5": 45_000}, {"iad": 45_000})
    after = await Reader.connect(bench.socket)
    for reader in (before, after):
        told = (await reader.until("distances"))[-1]
        assert (told.hosts, told.regions) == ({"b2c3d4e5": 45_000}, {"iad": 45_000})
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


async def test_a_suspended_machine_is_told_and_woken_like_a_stopped_one(bench: Bench) -> None:
    await bench.create(config=SERVICES)
    await bench.reach("started")
    reader = await Reader.connect(bench.socket)
    await reader.until("synced")
    assert await bench.call("machine.suspend", machine_id=M) == {}
    told = await reader.state("suspended")
    assert told.services[0].autostart
    reader.ask(type="wake", id=1, machine_id=M)
    assert (await reader.until("woken"))[-1].id == 1
    assert bench.world.running(M)
    assert bench.world.asked[f"vmm.spawn:{M}"] == 1
    await reader.close()


async def test_after_a_resume_nothing_passes_before_it_is_checked_again(bench: Bench) -> None:
    # Nobody answers on that port: what passed before the suspend was not this check.
    check = {"type": "tcp", "interval": "60s", "timeout": "1s", "grace_period": "60s"}
    config = {"services": [{"internal_port": 8080, "checks": [check]}]}
    await bench.create(config=config)
    await bench.reach("started")
    before = bench.app.machines.get(WHO, M).machine.started_at_ms
    await bench.call("machine.suspend", machine_id=M)
    await bench.reach("suspended")
    await bench.call("machine.start", machine_id=M)
    await bench.reach("started")
    after = bench.app.machines.get(WHO, M).machine.started_at_ms
    assert (after or 0) > (before or 0)
    assert bench.app.checks.passing(M, config) == {0: False}


async def edge(bench: Bench) -> Reader:
    """Return a reader that answers counts."""
    reader = await Reader.connect(bench.socket)
    reader.ask(type="hello", v=2, component="edge")
    reader.ask(type="nonsense")
    await reader.until("error")  # By then the line before is taken in.
    return reader


async def test_a_drain_returns_when_the_edges_have_nothing_more_in_flight(bench: Bench) -> None:
    await bench.create(config=SERVICES)
    await bench.reach("started")
    one, other, dns = await edge(bench), await edge(bench), await Reader.connect(bench.socket)
    async with tasks.Tasks("test") as owned:
        draining = owned.spawn(bench.call("machine.drain", machine_id=M, timeout_s=60), name="d")
        for reader in (one, other, dns):
            withdrawn = await reader.drained(draining=True)
            assert (withdrawn.state, withdrawn.cordoned) == ("started", True)
        for requests in (2, 1):
            await one.count(requests)
            await other.count(0, tunnels=1)
            assert not draining.done()
        for _ in range(2):
            await one.count(0)
            await other.count(0, tunnels=1)
        assert await draining == {"in_flight": 0, "tunnels": 1, "edges": 2}
    assert (await bench.call("machine.get", machine_id=M))["cordoned"] is False
    await bench.call("machine.undrain", machine_id=M)
    assert not (await one.drained(draining=False)).cordoned
    for reader in (one, other, dns):
        await reader.close()


@pytest.mark.parametrize(("suspend", "rests"), [(False, "stopped"), (True, "suspended")])
async def test_a_machine_that_is_not_needed_rests_once_its_requests_have_ended(
    bench: Bench, suspend: bool, rests: str
) -> None:
    await bench.create(config=autostops("suspend" if suspend else "stop"))
    await bench.reach("started")
    reader = await edge(bench)
    for _ in range(2):
        # The second finds it on its way already.
        reader.ask(type="stop", machine_id=M, suspend=suspend)
    assert (await reader.drained(draining=True)).state == "started"
    await reader.count(1)
    assert (await bench.call("machine.get", machine_id=M))["state"] == "started"
    for _ in range(2):
        await reader.count(0)
    await reader.state(rests)
    reader.ask(type="stop", machine_id="0000000000000f", suspend=suspend)
    await reader.close()


def autostops(how: str) -> dict[str, Any]:
    service = {"internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}
    return {"services": [service | {"autostop": how}]}


async def test_a_machine_whose_autostop_is_off_runs_on_whatever_an_edge_has_seen(
    bench: Bench,
) -> None:
    await bench.create(config=autostops("off"))
    await bench.reach("started")
    with pytest.raises(errors.Failure, match=f"autostop of {M} is off"):
        await bench.app.rest(M, suspend=False)
    view = await bench.call("machine.get", machine_id=M)
    assert (view["state"], view["cordoned"]) == ("started", False)


async def test_an_edge_that_goes_away_has_nothing_in_flight(bench: Bench) -> None:
    await bench.create(config=SERVICES)
    await bench.reach("started")
    one, other = await edge(bench), await edge(bench)
    async with tasks.Tasks("test") as owned:
        draining = owned.spawn(bench.call("machine.drain", machine_id=M, timeout_s=60), name="d")
        await one.until("count")
        await one.close()
        for _ in range(2):
            await other.count(0)
        assert (await draining)["in_flight"] == 0
    await other.close()


async def test_a_drain_ends_with_an_update_and_is_forgotten_by_the_next_agent(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as bench:
        await bench.create(config=SERVICES)
        await bench.reach("started")
        await bench.call("machine.drain", machine_id=M, timeout_s=0)
        reader = await edge(bench)
        update = agents.update(M, "01NEW", config=SERVICES)
        await bench.call("machine.update", **update)
        assert (await reader.drained(draining=False)).state == "replacing"
        # The edge has acted upon that before the process is signalled.
        await reader.count(0)
        assert not (await reader.state("started")).cordoned
        await bench.call("machine.drain", machine_id=M, timeout_s=0)
        assert (await reader.drained(draining=True)).state == "started"
        await reader.close()
    async with running(tmp_path, bench) as again:
        reader = await edge(again)
        await reader.close()
        assert not next(
            fact for fact in again.app.publisher.all() if isinstance(fact, facts.MachineFact)
        ).draining


async def test_a_process_is_signalled_once_the_edges_know_that_it_takes_no_more(
    bench: Bench,
) -> None:
    await bench.create(config=SERVICES)
    await bench.reach("started")
    reader = await edge(bench)
    bench.app._drains.acted_upon = _never  # type: ignore[method-assign]
    await bench.call("machine.stop", machine_id=M)
    assert (await reader.state("stopping")).state == "stopping"
    assert bench.world.running(M)
    await reader.close()


async def _never(_: str) -> None:
    await asyncio.Event().wait()


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
    assert after.reasons == ("needs 1045 MB, 525 MB of 2048 MB free",)


async def test_readiness_checks_of_containers_gate_the_fact_and_show_in_the_view(
    bench: Bench,
) -> None:
    ready = {"name": "up", "kind": "readiness", "tcp": {"port": 8080}}
    alive = {"name": "alive", "kind": "liveness", "tcp": {"port": 8080}}
    container = {"name": "web", "image": "a", "healthchecks": [alive, ready]}
    ref = agents.image(f"sha256:{'a' * 64}")
    config = {**SERVICES, "containers": [container]}
    edge = await Reader.connect(bench.socket)
    await bench.create(config=config, image=ref, container_images=(ref,))
    await bench.reach("started")
    fact = await edge.state("started")
    while not fact.services[0].passing:
        fact = await edge.state("started")
    view = await bench.call("machine.get", machine_id=M)
    assert [(one["name"], one["status"]) for one in view["checks"]] == [("web/up", "passing")]
    vm = bench.world.vms[M]
    vm.health["web"] = "critical"
    vm.tell()
    while fact.services[0].passing:
        fact = await edge.state("started")
    view = await bench.call("machine.get", machine_id=M)
    assert view["checks"][0]["status"] == "critical"
    assert view["containers"] == [{"name": "web", "state": "started", "run": 0, "checks": None}]
    await edge.close()


async def test_service_checks_gate_the_fact_and_show_in_the_view(bench: Bench) -> None:
    served: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(1)
        await reader.read()

    # The fake network's machine 2 is at 172.16.0.2; its check is sent to where a server is.
    async with serving(serve) as port:
        bench.parts.network.local_ipv4 = lambda _: "127.0.0.1"  # type: ignore[method-assign]
        check = {"type": "tcp", "interval": "1s", "timeout": "60s"}
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


@pytest.mark.parametrize(
    ("part", "chore", "name"),
    [
        ("machines", "mend", "mend"),
        ("machines", "tidy", "tidy"),
        ("machines", "still_alive", "alive"),
        ("image_keeper", "sweep", "images"),
        ("_scheduler", "tick", "schedules"),
        ("_catalog", "run", "catalog"),
        ("", "_expire_usage", "usage"),
        ("", "_meter", "metering"),
    ],
)
async def test_a_chore_that_ends_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, chore: str, name: str
) -> None:
    async def fail() -> None:
        raise KeyError("bug")

    lost = asyncio.Event()
    async with tasks.Tasks(
        "agent", on_lost=lambda task, _: lost.set() if task == f"agent.{name}" else None
    ) as owned:
        made = Bench(tmp_path, owned)
        monkeypatch.setattr(getattr(made.app, part) if part else made.app, chore, fail)
        await made.app.start()
        async with asyncio.timeout(60):
            await lost.wait()
    await made.database.close()


async def test_a_database_that_is_locked_is_said_and_no_bug(bench: Bench) -> None:
    await bench.create()
    await bench.reach("started")

    async def locked(_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    bench.database.read = locked  # type: ignore[method-assign]
    bench.database.write = locked  # type: ignore[method-assign]
    patch = {"machine_id": M, "metadata": {"a": "b"}}
    for verb, body in (("machine.versions", {"machine_id": M}), ("machine.metadata.patch", patch)):
        with pytest.raises(errors.Failure) as caught:
            await bench.call(verb, **body)
        assert caught.value.code == "unavailable"
    assert (await bench.call("machine.get", machine_id=M))["state"] == "started"
