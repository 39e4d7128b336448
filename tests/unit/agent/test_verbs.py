"""Leases, metadata, versions, memory and processes as control asks for them, on a fake host."""

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.agent.machines import holdings, records, store
from godwit.base import errors, tasks
from godwit.testing import agents
from godwit.wire import facts, host_rpc
from tests.unit.agent.bench import READER, STRANGER, USER, WHO, Bench, M, N, running

GUARDED: list[tuple[str, dict[str, Any]]] = [
    ("machine.start", {}),
    ("machine.stop", {}),
    ("machine.restart", {}),
    ("machine.suspend", {}),
    ("machine.destroy", {}),
    ("machine.destroy", {"force": True}),
    ("machine.cordon", {}),
    ("machine.uncordon", {}),
    ("machine.drain", {"timeout_s": 0}),
    ("machine.undrain", {}),
    ("machine.exec", {"command": ["id"]}),
    ("machine.memory.set", {"limit_mb": 256}),
    ("machine.memory.reclaim", {"amount_mb": 1}),
    ("machine.update", {}),
]
OPEN: list[tuple[str, dict[str, Any]]] = [
    ("machine.get", {}),
    ("machine.list", {"app_id": "app_a"}),
    ("machine.versions", {}),
    ("machine.events", {}),
    ("machine.wait", {"states": ["started"]}),
    ("machine.lease.get", {}),
    ("machine.metadata.get", {}),
    ("machine.metadata.patch", {"metadata": {"k": "v"}}),
    ("machine.memory.get", {}),
    ("machine.ps", {}),
    ("machine.signal", {"signal": "SIGUSR1"}),
]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        await made.create()
        await made.reach("started")
        yield made


async def code(bench: Bench, verb: str, **body: Any) -> str:
    """Return what a user's request ends with."""
    try:
        await bench.call(verb, USER, machine_id=M, **body)
    except errors.Failure as failure:
        return failure.code
    return "ok"


async def lease(bench: Bench, ttl_s: int = 60, **more: Any) -> dict[str, Any]:
    answer = await bench.call("machine.lease.acquire", USER, machine_id=M, ttl_s=ttl_s, **more)
    return dict(answer["lease"])


def new_version(version: str, **changes: Any) -> dict[str, Any]:
    return agents.update(M, version, **changes)


# -- leases -----------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "body"), GUARDED)
async def test_a_lease_keeps_others_from_changing_the_machine(
    bench: Bench, verb: str, body: dict[str, Any]
) -> None:
    if verb == "machine.update":
        body = new_version("01NEXT")
        body.pop("machine_id")
    held = await lease(bench, owner="a@example.com")
    assert await code(bench, verb, **body) == "conflict"
    assert await code(bench, verb, **{**body, "nonce": "wrong"}) == "conflict"
    assert (await bench.call("machine.get", machine_id=M))["state"] == "started"
    assert await code(bench, verb, **{**body, "nonce": held["nonce"]}) != "conflict"


@pytest.mark.parametrize(("verb", "body"), OPEN)
async def test_a_lease_keeps_nobody_from_looking(
    bench: Bench, verb: str, body: dict[str, Any]
) -> None:
    await lease(bench)
    assert await code(bench, verb, **body) == "ok"


async def test_the_platform_acts_whoever_holds_the_lease(bench: Bench) -> None:
    await lease(bench)
    await bench.call("machine.stop", WHO, machine_id=M)
    await bench.reach("stopped")
    await bench.app.wake(M)
    assert (await bench.call("machine.get", machine_id=M))["state"] == "started"


async def test_a_request_that_waited_is_judged_when_its_turn_comes(bench: Bench) -> None:
    await bench.call("machine.stop", USER, machine_id=M)
    async with tasks.Tasks("clients") as clients:
        waiting = clients.spawn(code(bench, "machine.start"), name="start")
        await asyncio.sleep(0)
        await lease(bench)
        assert await waiting == "conflict"


async def test_everybody_sees_a_lease_and_its_holder_alone_the_nonce(bench: Bench) -> None:
    held = await lease(bench, owner="a@example.com", description="deploying")
    assert held["nonce"]
    seen = (await bench.call("machine.lease.get", READER, machine_id=M))["lease"]
    assert seen == held | {"nonce": None}
    view = await bench.call("machine.get", machine_id=M)
    assert view["lease"] == seen
    assert seen["version"] == view["instance_id"]
    await bench.call("machine.lease.release", USER, machine_id=M, nonce=held["nonce"])
    assert (await bench.call("machine.lease.get", READER, machine_id=M))["lease"] is None


async def test_a_lease_outlives_the_agent(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        await first.create()
        await first.reach("started")
        held = await lease(first)
    async with running(tmp_path, first) as second:
        assert await code(second, "machine.stop") == "conflict"
        again = await lease(second, nonce=held["nonce"])
        assert again["nonce"] == held["nonce"]
        assert await code(second, "machine.stop", nonce=held["nonce"]) == "ok"


async def test_a_lease_outlives_update_suspend_and_resume(bench: Bench) -> None:
    held = await lease(bench)
    body = new_version("01NEXT", nonce=held["nonce"])
    await bench.call("machine.update", USER, **body)
    await bench.reach("started")
    assert await code(bench, "machine.suspend", nonce=held["nonce"]) == "ok"
    await bench.reach("suspended")
    assert await code(bench, "machine.start") == "conflict"
    assert await code(bench, "machine.start", nonce=held["nonce"]) == "ok"
    seen = (await bench.call("machine.lease.get", USER, machine_id=M))["lease"]
    assert (seen["expires_at"], seen["version"]) == (held["expires_at"], "01NEXT")


async def test_a_machine_may_begin_under_a_lease(bench: Bench) -> None:
    view = await bench.create(N, lease_ttl_s=60, lease_owner="a@example.com")
    nonce = view["lease"]["nonce"]
    assert (await bench.create(N, lease_ttl_s=60, lease_owner="a@example.com"))["lease"][
        "nonce"
    ] == nonce
    with pytest.raises(errors.Failure) as caught:
        await bench.call("machine.stop", USER, machine_id=N)
    assert caught.value.code == "conflict"
    await bench.call("machine.stop", USER, machine_id=N, nonce=nonce)


async def test_an_update_may_bring_a_lease_once(bench: Bench) -> None:
    body = new_version("01NEXT", lease_ttl_s=60, lease_owner="a@example.com")
    first = await bench.call("machine.update", USER, **body)
    again = await bench.call("machine.update", USER, **body)
    assert first["lease"]["nonce"] == again["lease"]["nonce"]
    assert await code(bench, "machine.stop") == "conflict"


async def test_a_refused_update_leaves_no_lease(bench: Bench) -> None:
    body = new_version("01NEXT", lease_ttl_s=60, current_version="01OTHER")
    with pytest.raises(errors.Failure) as caught:
        await bench.call("machine.update", USER, **body)
    assert caught.value.code == "conflict"
    assert (await bench.call("machine.lease.get", USER, machine_id=M))["lease"] is None
    held = await lease(bench)
    with pytest.raises(errors.Failure):
        await bench.call("machine.update", USER, **{**body, "nonce": held["nonce"]})
    assert (await bench.call("machine.lease.get", USER, machine_id=M))["lease"] is not None


async def test_the_platform_ends_a_lease_that_was_left_behind(bench: Bench) -> None:
    held = await lease(bench)
    assert await code(bench, "machine.lease.release") == "invalid_argument"
    for _ in range(2):
        await bench.call("machine.lease.release", WHO, machine_id=M)
    assert (await bench.call("machine.lease.get", READER, machine_id=M))["lease"] is None
    assert (await lease(bench, nonce=held["nonce"]))["nonce"] != held["nonce"]


async def test_leases_are_not_for_strangers(bench: Bench) -> None:
    for verb, body in (("machine.lease.get", {}), ("machine.lease.acquire", {"ttl_s": 5})):
        with pytest.raises(errors.Failure) as caught:
            await bench.call(verb, STRANGER, machine_id=M, **body)
        assert caught.value.code == "not_found"
    with pytest.raises(errors.Failure) as caught:
        await bench.call("machine.lease.acquire", READER, machine_id=M, ttl_s=5)
    assert caught.value.code == "permission_denied"


# -- metadata ---------------------------------------------------------------------------


async def metadata(bench: Bench) -> dict[str, Any]:
    return await bench.call("machine.metadata.get", READER, machine_id=M)


async def patch(bench: Bench, **body: Any) -> None:
    await bench.call("machine.metadata.patch", USER, machine_id=M, **body)


def fact(bench: Bench) -> facts.MachineFact:
    (found,) = (one for one in bench.app.publisher.all() if isinstance(one, facts.MachineFact))
    return found


async def test_metadata_begin_as_the_configs_and_change_without_a_version(
    tmp_path: Path,
) -> None:
    config = {"metadata": {"fly_process_group": "web", "a": "1"}, "env": {"X": "y"}}
    async with running(tmp_path) as bench:
        before = await bench.create(config=config)
        await bench.reach("started")
        assert (await metadata(bench))["metadata"] == config["metadata"]
        await patch(bench, metadata={"fly_process_group": "worker", "a": None, "b": "2"})
        now = {"fly_process_group": "worker", "b": "2"}
        view = await bench.call("machine.get", machine_id=M)
        assert view["instance_id"] == before["instance_id"]
        assert (await metadata(bench))["metadata"] == view["metadata"] == now
        assert view["config"] == config | {"metadata": now}
        assert (fact(bench).process_group, fact(bench).metadata) == ("worker", now)
        assert fact(bench).revision > before["revision"]
        versions = await bench.call("machine.versions", READER, machine_id=M)
        assert [each["user_config"] for each in versions["versions"]] == [config]
    async with running(tmp_path, bench) as second:
        assert (await metadata(second))["metadata"] == now
        assert fact(second).metadata == now


async def test_a_config_nobody_wrote_to_comes_back_as_submitted(bench: Bench) -> None:
    config: dict[str, Any] = {"metadata": None, "env": {}}
    await bench.create(N, config=config)
    assert (await bench.call("machine.get", machine_id=N))["config"] == config
    await bench.call("machine.metadata.patch", USER, machine_id=N, metadata={"gone": None})
    assert (await bench.call("machine.get", machine_id=N))["config"] == config


async def test_an_update_brings_the_metadata_of_its_own_config(bench: Bench) -> None:
    await patch(bench, metadata={"written": "1"})
    body = new_version("01NEXT", config={"metadata": {"submitted": "2"}})
    await bench.call("machine.update", USER, **body)
    assert (await metadata(bench))["metadata"] == {"submitted": "2"}
    await bench.reach("started")
    assert (await metadata(bench))["metadata"] == {"submitted": "2"}
    assert fact(bench).metadata == {"submitted": "2"}


async def test_what_is_written_while_an_update_runs_is_the_new_versions(bench: Bench) -> None:
    await bench.call("machine.update", USER, **new_version("01NEXT"))
    await patch(bench, metadata={"written": "1"})
    await bench.reach("started")
    assert (await metadata(bench)) | {"updated_at": ""} == {
        "metadata": {"written": "1"},
        "version": "01NEXT",
        "updated_at": "",
    }


async def test_a_write_that_has_not_seen_the_last_one_is_refused(bench: Bench) -> None:
    seen = await metadata(bench)
    await patch(
        bench,
        metadata={"a": "1"},
        machine_version=seen["version"],
        updated_at=seen["updated_at"],
    )
    for stale in ({"updated_at": seen["updated_at"]}, {"machine_version": "01OLD"}):
        assert await code(bench, "machine.metadata.patch", metadata={"a": "2"}, **stale) == (
            "failed_precondition"
        )
    assert (await metadata(bench))["metadata"] == {"a": "1"}
    assert (await bench.call("machine.get", machine_id=M))["updated_at"] == (
        await metadata(bench)
    )["updated_at"]


async def test_metadata_are_bounded(bench: Bench) -> None:
    for wrong in ({"": "x"}, {"k" * 257: "x"}, {"k": "x" * 70_000}):
        assert await code(bench, "machine.metadata.patch", metadata=wrong) == "invalid_argument"
    assert await code(bench, "machine.metadata.patch", metadata={}, updated_at="now") == (
        "invalid_argument"
    )


async def test_writes_at_once_lose_nothing(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(patch(bench, metadata={f"k{number}": "v"}))
    assert len((await metadata(bench))["metadata"]) == 40


# -- versions ---------------------------------------------------------------------------


async def test_old_versions_are_kept_and_shown_as_replaced(bench: Bench) -> None:
    first = (await bench.call("machine.get", machine_id=M))["instance_id"]
    await bench.call("machine.update", USER, **new_version("01NEXT", config={"env": {"A": "b"}}))
    shown = await bench.call("machine.versions", READER, machine_id=M)
    assert [each["version"] for each in shown["versions"]] == ["01NEXT", first]
    await bench.reach("started")
    shown = await bench.call("machine.versions", READER, machine_id=M)
    assert shown["versions"] == [
        {"version": "01NEXT", "user_config": {"env": {"A": "b"}}},
        {"version": first, "user_config": {}},
    ]
    old = await bench.call("machine.get", READER, machine_id=M, version=first)
    assert (old["state"], old["instance_id"], old["config"]) == ("replaced", first, {})
    new = await bench.call("machine.get", READER, machine_id=M, version="01NEXT")
    assert new["state"] == "started"
    assert await code(bench, "machine.get", version="01NEVER") == "not_found"


async def test_an_update_that_failed_is_no_version(bench: Bench) -> None:
    first = (await bench.call("machine.get", machine_id=M))["instance_id"]
    missing = errors.Failure("manifest_unknown", "no such image")
    bench.world.faults["images.ensure"].append(missing)
    image = agents.image("sha256:" + "2" * 64)
    await bench.call("machine.update", USER, **new_version("01BAD", image=image))
    await bench.call("machine.wait", machine_id=M, states=["settled"], timeout_s=5)
    shown = await bench.call("machine.versions", READER, machine_id=M)
    assert [each["version"] for each in shown["versions"]] == [first]


async def test_a_machine_of_a_release_that_kept_no_versions_has_its_present_one(
    bench: Bench,
) -> None:
    await bench.database.write(lambda tx: tx.execute("DELETE FROM versions").rowcount)
    view = await bench.call("machine.get", machine_id=M)
    shown = await bench.call("machine.versions", READER, machine_id=M)
    assert [each["version"] for each in shown["versions"]] == [view["instance_id"]]
    await bench.call("machine.update", USER, **new_version("01NEXT"))
    await bench.reach("started")
    shown = await bench.call("machine.versions", READER, machine_id=M)
    assert [each["version"] for each in shown["versions"]] == ["01NEXT", view["instance_id"]]


async def test_the_last_fifty_versions_are_kept(bench: Bench) -> None:
    machine = bench.app.machines.get(WHO, M).machine

    def put(tx: Any) -> None:
        for number in range(60):
            changed = machine.model_copy(update={"instance_id": f"01N{number:02}"})
            holdings.keep_version(tx, changed)
            holdings.keep_version(tx, changed)

    await bench.database.write(put)
    kept = await bench.database.read(lambda tx: holdings.versions(tx, M))
    assert [each.instance_id for each in kept] == [
        f"01N{number:02}" for number in reversed(range(10, 60))
    ]


# -- guests -----------------------------------------------------------------------------


GROWS = {"memory_mb": 256, "max_memory_mb": 512}


async def test_memory_is_told_limited_and_the_limit_outlives_restarts(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.create(resources=GROWS)
        await bench.reach("started")
        told = await bench.call("machine.memory.get", READER, machine_id=M)
        assert told == {"available_mb": 128, "limit_mb": 256}
        told = await bench.call("machine.memory.set", USER, machine_id=M, limit_mb=512)
        assert told["limit_mb"] == bench.world.vms[M].limit_mb == 512
        for wrong in (513, 63, -1):
            assert await code(bench, "machine.memory.set", limit_mb=wrong) == "invalid_argument"
    async with running(tmp_path, bench) as second:
        told = await second.call("machine.memory.get", READER, machine_id=M)
        assert told["limit_mb"] == 512
        await second.call("machine.restart", USER, machine_id=M)
        await second.reach("started")
        assert second.world.vms[M].plan.resources.memory_mb == 512
        body = new_version("01NEXT", resources=GROWS)
        await second.call("machine.update", USER, **body)
        await second.reach("started")
        assert second.world.vms[M].plan.resources.memory_mb == 256
        told = await second.call("machine.memory.get", READER, machine_id=M)
        assert told["limit_mb"] == 256


async def test_the_books_hold_what_a_machine_has(bench: Bench) -> None:
    await bench.create(N, resources=GROWS)
    await bench.call("machine.wait", machine_id=N, states=["started"], timeout_s=5)
    free_mb = bench.app.books.free_memory_mb
    await bench.call("machine.memory.set", USER, machine_id=N, limit_mb=500)
    assert bench.app.books.free_memory_mb == free_mb - 244
    bench.world.faults["vmm.set_memory"].append(errors.Failure("failed_precondition", "no"))
    with pytest.raises(errors.Failure):
        await bench.call("machine.memory.set", USER, machine_id=N, limit_mb=512)
    assert bench.app.books.free_memory_mb == free_mb - 244
    await bench.call("machine.memory.set", USER, machine_id=N, limit_mb=128)
    assert bench.app.books.free_memory_mb == free_mb + 128


async def test_usage_tells_the_memory_a_machine_had_when_it_had_it(bench: Bench) -> None:
    await bench.create(N, resources=GROWS)
    await bench.call("machine.wait", machine_id=N, states=["started"], timeout_s=5)
    for limit_mb in (512, 512, 300):
        await bench.call("machine.memory.set", USER, machine_id=N, limit_mb=limit_mb)
    told = (await bench.call("usage.read", after=0, limit=100))["intervals"]
    mine = [each for each in told if each["machine_id"] == N]
    assert [each["memory_mb"] for each in mine] == [256, 512, 300]
    assert [each["ended_at_ms"] for each in mine[:2]] == [
        each["started_at_ms"] for each in mine[1:]
    ]
    assert mine[-1]["ended_at_ms"] is None
    await bench.call("machine.restart", machine_id=N)
    await bench.call("machine.wait", machine_id=N, states=["started"], timeout_s=5)
    told = (await bench.call("usage.read", after=mine[-1]["id"], limit=100))["intervals"]
    assert [each["memory_mb"] for each in told] == [300]


async def test_a_machine_grows_only_where_the_host_has_room(bench: Bench) -> None:
    await bench.create(N, resources={"memory_mb": 256, "max_memory_mb": 4096})
    await bench.call("machine.wait", machine_id=N, states=["started"], timeout_s=5)
    free_mb = bench.app.books.free_memory_mb
    with pytest.raises(errors.Failure) as caught:
        await bench.call("machine.memory.set", USER, machine_id=N, limit_mb=4096)
    assert caught.value.code == "insufficient_capacity"
    assert bench.app.books.free_memory_mb == free_mb
    assert bench.world.vms[N].limit_mb is None


async def test_memory_is_reclaimed(bench: Bench) -> None:
    told = await bench.call("machine.memory.reclaim", USER, machine_id=M, amount_mb=64)
    assert told == {"actual_mb": 32}
    assert await code(bench, "machine.memory.reclaim", amount_mb=0) == "invalid_argument"


async def test_processes_are_told(bench: Bench) -> None:
    told = await bench.call("machine.ps", READER, machine_id=M)
    (process,) = told["processes"]
    assert host_rpc.GuestProcess.model_validate(process).pid == 1


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("machine.ps", {}),
        ("machine.memory.get", {}),
        ("machine.memory.set", {"limit_mb": 256}),
        ("machine.memory.reclaim", {"amount_mb": 1}),
        ("machine.exec", {"command": ["id"]}),
        ("machine.signal", {"signal": "SIGUSR1"}),
    ],
)
async def test_a_stopped_machines_guest_is_not_asked(
    bench: Bench, verb: str, body: dict[str, Any]
) -> None:
    await bench.call("machine.stop", machine_id=M)
    await bench.reach("stopped")
    assert await code(bench, verb, **body) == "failed_precondition"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(TimeoutError(), "deadline_exceeded"), (ConnectionResetError(), "failed_precondition")],
)
async def test_a_guest_that_is_lost_or_silent_is_told_in_words(
    bench: Bench, error: Exception, expected: str
) -> None:
    for verb, fault in (("machine.memory.get", "stats"), ("machine.ps", "ps")):
        bench.world.faults[f"session.{fault}"].append(error)
        assert await code(bench, verb) == expected


async def test_hundreds_wait_at_once_and_all_are_told(bench: Bench) -> None:
    async with tasks.Tasks("clients") as clients:
        asked = {
            (state, number): clients.spawn(
                bench.call("machine.wait", READER, machine_id=M, states=[state], timeout_s=30),
                name=state,
            )
            for number in range(200)
            for state in ("stopped", "suspended", "started")
        }
        await asyncio.sleep(0)
        await bench.call("machine.stop", machine_id=M)
        for (state, _), one in asked.items():
            if state != "suspended":
                assert (await one)["state"] == state
        assert sum(not one.done() for one in asked.values()) == 200


async def test_a_wait_from_an_event_counts_only_what_came_after_it(bench: Bench) -> None:
    view = await bench.call("machine.get", machine_id=M)
    newest = view["events"][0]["id"]
    body = {"states": ["started"], "from_event_id": newest, "timeout_s": 0.05}
    assert await code(bench, "machine.wait", **body) == "deadline_exceeded"
    await bench.call("machine.restart", machine_id=M)
    reached = await bench.call(
        "machine.wait", machine_id=M, states=["started"], from_event_id=newest, timeout_s=5
    )
    assert reached["event_id"] > newest


async def test_a_machine_keeps_its_newest_fifty_events(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        await first.create(skip_launch=True)
        await first.reach("stopped")
        machine = first.app.machines.get(WHO, M).machine
        for number in range(70):
            event = records.Event(
                id=f"02{number:024}",
                machine_id=M,
                instance_id=machine.instance_id,
                key=str(number),
                type="start",
                status="started",
                source="user",
                timestamp=number,
            )
            keep = functools.partial(store.add_event, org_id="org_a", event=event)
            await first.database.write(keep)
    async with running(tmp_path, first) as second:
        kept = (await second.call("machine.events", machine_id=M, limit=1_000))["events"]
        assert [event["timestamp"] for event in kept] == list(range(69, 19, -1))


async def test_events_are_paged_by_id(bench: Bench) -> None:
    for _ in range(3):
        await bench.call("machine.stop", machine_id=M)
        await bench.reach("stopped")
        await bench.call("machine.start", machine_id=M)
        await bench.reach("started")
    everything = (await bench.call("machine.events", machine_id=M, limit=50))["events"]
    paged: list[dict[str, Any]] = []
    while True:
        before = paged[-1]["id"] if paged else None
        page = (await bench.call("machine.events", machine_id=M, limit=4, before=before))["events"]
        paged += page
        if len(page) < 4:
            break
    assert paged == everything
    assert len(paged) >= 10


async def test_after_a_resume_checks_are_made_at_once_and_after_a_boot_they_have_grace(
    tmp_path: Path,
) -> None:
    check = {"type": "tcp", "grace_period": "60s", "port": 9}
    async with running(tmp_path) as bench:
        await bench.create(config={"checks": {"alive": check}})
        await bench.reach("started")
        (waiting,) = (await bench.call("machine.get", machine_id=M))["checks"]
        await bench.call("machine.suspend", machine_id=M)
        await bench.reach("suspended")
        await bench.call("machine.start", machine_id=M)
        await bench.reach("started")
        async with asyncio.timeout(60):
            while True:
                (made,) = (await bench.call("machine.get", machine_id=M))["checks"]
                if made["output"] != waiting["output"]:
                    break
                await asyncio.sleep(0.01)
        assert waiting["output"] == "the first check has not been made yet"
