"""Hosts that are full or silent in the middle of a deploy: new machines elsewhere take over."""

from collections.abc import Callable
from typing import Any

import pytest

from godwit.base import errors, ids
from godwit.control import listing, upkeep
from godwit.control.deploys import service, view
from godwit.testing.deploys import ScriptedHost, Yard
from godwit.testing.simulated_machine import SimulatedMachine
from tests.unit.control.deploys.conftest import CHECK, WEB

LARGER: dict[str, Any] = {**WEB, "vm": [{"memory": "512mb"}]}
ALONE: dict[str, Any] = {"app": "shop", "processes": {"worker": "work"}}
STRATEGIES = ["rolling", "canary", "immediate"]


@pytest.fixture
async def other(yard: Yard) -> ScriptedHost:
    """Return a second host, where nothing is yet."""
    await yard.deploy(WEB, "nginx:1")
    return await yard.add_host("b2b2b2b2")


def living(host: ScriptedHost) -> dict[str, SimulatedMachine]:
    return {k: one for k, one in host.machines.items() if one.state != "destroyed"}


def told(deploy: service.Deploy) -> list[str]:
    return [one.message for one in view.events(deploy)]


def shown(yard: Yard) -> list[tuple[str, str, bool]]:
    return [(one["version"], one["state"], one["cordoned"]) for one in yard.machines()]


def once(
    host: ScriptedHost, verb: str, doing: Callable[[dict[str, Any]], None], *, times: int = 1
) -> None:
    """Do something after the host has answered a verb."""
    seen = []

    async def notice(asked: str, body: dict[str, Any]) -> None:
        if asked == verb:
            seen.append(body)
            if len(seen) == times:
                doing(body)

    host.after.append(notice)


def leave(host: ScriptedHost) -> Callable[[dict[str, Any]], None]:
    def away(body: dict[str, Any]) -> None:
        del body
        host.away = True

    return away


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_machine_that_grows_too_large_for_its_host_is_replaced_elsewhere(
    yard: Yard, other: ScriptedHost, strategy: str
) -> None:
    run_id = await yard.begin(LARGER, "nginx:2", strategy=strategy)
    yard.host.memory_mb = 512 + 256
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", told(done)
    assert shown(yard) == [("2", "started", False)] * 2
    assert len(living(yard.host)) == 1
    assert len(living(other)) == 1
    assert yard.leased() == []


async def test_the_old_machine_rests_before_the_new_one_starts(
    yard: Yard, other: ScriptedHost
) -> None:
    run_id = await yard.begin(LARGER, "nginx:2")
    yard.host.memory_mb = 512
    running: list[int] = []

    async def count(verb: str, body: dict[str, Any]) -> None:
        del verb, body
        running.append(sum(one["state"] == "started" for one in yard.machines()))

    for host in (yard.host, other):
        host.after.append(count)
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"
    assert max(running) == 2
    assert min(running) == 1


async def test_a_release_that_is_not_well_elsewhere_gives_the_old_machine_its_place_back(
    yard: Yard, other: ScriptedHost
) -> None:
    before = {key: one.config for key, one in living(yard.host).items()}
    run_id = await yard.begin(LARGER, "nginx:sick", wait_timeout_s=20)
    yard.host.memory_mb = 512
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.message.endswith("; rolled back"), told(done)
    assert {key: one.config for key, one in living(yard.host).items()} == before
    assert shown(yard) == [("1", "started", False)] * 2
    assert living(other) == {}
    assert yard.leased() == []


async def test_where_nobody_has_room_the_deploy_fails_and_says_so(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(LARGER, "nginx:2")
    yard.host.memory_mb = 512
    await yard.carry()
    done = await yard.look(run_id)
    assert "has no room" in done.row.message
    assert "no other host in lcl has room: a1b2c3d4 has 0 MB free" in done.row.message
    assert done.row.message.endswith("; nothing was changed")
    assert shown(yard) == [("1", "started", False)] * 2


async def test_a_machine_with_a_volume_stays_with_its_host(
    yard: Yard, other: ScriptedHost
) -> None:
    first = min(yard.host.machines)
    machine = yard.host.machines[first]
    mounted = {**machine.config, "mounts": [{"volume": "vol_1", "path": "/data"}]}
    changed = {"config": mounted, "instance_id": ids.ulid()}
    machine.offer = machine.offer.model_copy(update=changed)
    run_id = await yard.begin(WEB, "nginx:2", only_machines=[first])
    yard.host.away = True
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "failed"
    assert "its volume is there, so it cannot be made elsewhere" in done.row.message
    assert living(other) == {}


async def test_a_silent_hosts_machines_are_replaced_and_go_when_it_is_back(
    yard: Yard, other: ScriptedHost
) -> None:
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.away = True
    begun_s = yard.clock.monotonic()
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", told(done)
    assert [one.config["image"] for one in living(other).values()] == ["nginx:2"] * 2
    # Both wait for the same silence: as long as standbys do, not once for each machine.
    assert yard.ctx.options.host_gone_s < yard.clock.monotonic() - begun_s < 200
    assert any("does not answer: a new machine takes its place" in one for one in told(done))
    page = await listing.of_app(yard.ctx, yard.who, "shop", listing.Filter())
    states = {one.view.host_id: one.view.state for one in page.machines}
    assert states == {"a1b2c3d4": "destroying", "b2b2b2b2": "started"}

    # Meanwhile it may run on, cut off: it has the old release until it is back.
    assert {one.config["image"] for one in living(yard.host).values()} == {"nginx:1"}
    yard.host.away = False
    await yard.clock.sleep(11)
    await upkeep.Upkeep(yard.ctx).sweep()
    assert living(yard.host) == {}
    assert shown(yard) == [("2", "started", False)] * 2


async def test_the_next_deploy_leaves_alone_what_is_to_go(yard: Yard, other: ScriptedHost) -> None:
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.away = True
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"
    yard.host.away = False
    done = await yard.deploy(WEB, "nginx:3")
    assert done.row.outcome == "complete", told(done)
    assert {one.machine_id for one in done.order.plan.update} == set(living(other))


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_host_that_goes_after_it_has_the_release_is_gone_around(
    yard: Yard, other: ScriptedHost, strategy: str
) -> None:
    run_id = await yard.begin(WEB, "nginx:2", strategy=strategy)
    once(yard.host, "machine.update", leave(yard.host))
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", told(done)
    yard.host.away = False
    await yard.clock.sleep(11)
    await upkeep.Upkeep(yard.ctx).sweep()
    assert shown(yard) == [("2", "started", False)] * 2


async def test_a_host_that_is_back_in_time_keeps_its_machines(
    yard: Yard, other: ScriptedHost
) -> None:
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.away = True
    asked = yard.host.asked

    async def back(region: str, *given: Any, **named: Any) -> Any:
        yard.host.away = False
        return await bids(region, *given, **named)

    bids = yard.world.hosts.bids
    yard.world.hosts.bids = back  # type: ignore[method-assign]
    asked.clear()
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"
    assert living(other) == {}
    assert shown(yard) == [("2", "started", False)] * 2


async def test_a_platform_of_one_host_waits_for_it_and_then_gives_up(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.away = True
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "failed"
    assert "does not answer; nor does any other in lcl" in done.row.message
    yard.host.away = False
    assert shown(yard) == [("1", "started", False)] * 2


async def test_a_deploy_that_fails_after_a_host_was_lost_keeps_what_took_over(
    yard: Yard, other: ScriptedHost
) -> None:
    first, second = sorted(yard.host.machines)
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.away = True

    async def crash(verb: str, body: dict[str, Any]) -> None:
        if (
            verb == "machine.start"
            and sum(o.state == "started" for o in living(other).values()) == 2
        ):
            other.after.remove(crash)
            await other.crash(body["machine_id"])

    other.after.append(crash)
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "failed", told(done)
    assert done.row.message.endswith("; rolled back"), done.row.message
    running = [one for one in living(other).values() if one.state == "started"]
    assert [one.config["image"] for one in running] == ["nginx:1"] * 2
    yard.host.away = False
    await yard.clock.sleep(11)
    await upkeep.Upkeep(yard.ctx).sweep()
    assert {first, second}.isdisjoint(living(yard.host))
    assert shown(yard) == [("1", "started", False)] * 2


async def test_a_deploy_that_fails_when_the_host_is_back_gives_it_its_machines_back(
    yard: Yard, other: ScriptedHost
) -> None:
    before = set(living(yard.host))
    run_id = await yard.begin(WEB, "nginx:sick", wait_timeout_s=100)
    yard.host.away = True

    def back(body: dict[str, Any]) -> None:
        del body
        yard.host.away = False

    once(other, "machine.start", back)
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.message.endswith("; rolled back"), done.row.message
    assert set(living(yard.host)) == before
    assert shown(yard) == [("1", "started", False)] * 2
    assert living(other) == {}


async def test_without_rollback_each_place_has_one_machine(
    yard: Yard, other: ScriptedHost
) -> None:
    run_id = await yard.begin(LARGER, "nginx:sick", wait_timeout_s=20, auto_rollback=False)
    yard.host.memory_mb = 512
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.message.endswith("; not rolled back"), done.row.message
    assert sorted(one["version"] for one in yard.machines()) == ["1", "2"]


async def test_a_standby_stands_by_for_what_took_the_place(yard: Yard) -> None:
    await yard.deploy(ALONE, "nginx:1")
    other = await yard.add_host("b2b2b2b2")
    worker = next(k for k, one in yard.host.machines.items() if not one.config.get("standbys"))
    standby = next(k for k, one in yard.host.machines.items() if one.config.get("standbys"))
    run_id = await yard.begin(ALONE, "nginx:2")
    for _ in range(2):
        yard.host.troubles.setdefault("machine.update", []).append(
            errors.Failure("insufficient_capacity", "no room")
        )
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", told(done)
    assert worker not in living(yard.host)
    assert standby not in living(yard.host)
    made = living(other) | living(yard.host)
    (new,) = (k for k, one in made.items() if not one.config.get("standbys"))
    (stands_by,) = (one for one in made.values() if one.config.get("standbys"))
    assert stands_by.config["standbys"] == [new]
    assert stands_by.config["env"]["FLY_STANDBY_FOR"] == new
    assert stands_by.state == "stopped"


async def test_bluegreen_goes_around_a_silent_host(yard: Yard, other: ScriptedHost) -> None:
    run_id = await yard.begin(WEB, "nginx:2", strategy="bluegreen")
    yard.host.away = True
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", told(done)
    assert [one.config["image"] for one in living(other).values()] == ["nginx:2"] * 2
    yard.host.away = False
    await yard.clock.sleep(11)
    await upkeep.Upkeep(yard.ctx).sweep()
    assert living(yard.host) == {}


async def test_what_a_lost_host_had_of_a_failed_deploy_goes_when_it_is_back(
    yard: Yard, other: ScriptedHost
) -> None:
    yard.host.memory_mb = 512
    run_id = await yard.begin(WEB, "nginx:2", strategy="bluegreen", wait_timeout_s=100)
    once(other, "machine.reserve", leave(other))
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "failed"
    assert shown(yard)[:2] == [("1", "started", False)] * 2
    other.away = False
    await yard.clock.sleep(200)
    await upkeep.Upkeep(yard.ctx).sweep()
    assert living(other) == {}


async def test_removed_groups_go_when_their_host_is_back(yard: Yard) -> None:
    both = {**WEB, "processes": {"web": "serve", "old": "work"}}
    both["http_service"] = {**WEB["http_service"], "processes": ["web"], "checks": [CHECK]}
    await yard.deploy(both, "nginx:1")
    await yard.add_host("b2b2b2b2")
    smaller = {**both, "processes": {"web": "serve"}}
    run_id = await yard.begin(smaller, "nginx:2")
    once(yard.host, "machine.update", leave(yard.host), times=2)
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"
    yard.host.away = False
    await yard.clock.sleep(11)
    await upkeep.Upkeep(yard.ctx).sweep()
    assert [(one["group"], one["version"]) for one in yard.machines()] == [("web", "2")] * 2
