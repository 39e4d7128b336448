"""UDP ports at the shared address: the first app that asks has one, and edges are told."""

import asyncio
from typing import Any

import pytest

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import addresses, apps, machines, shared_ports, upkeep
from godwit.control.addresses import NewAddress
from godwit.control.machines import Machine, NewMachine, NewVersion
from godwit.testing.deploys import Yard
from tests.unit.control.conftest import Town
from tests.unit.control.test_addresses import allocated, told

SHARED = "198.51.100.1"


def config(*ports: int, protocol: str = "udp") -> dict[str, Any]:
    found = [{"port": port} for port in ports]
    service = {"protocol": protocol, "internal_port": 5353, "ports": found}
    return {"image": "nginx:1", "services": [service] if ports else []}


async def make(
    town: Town, made: dict[str, Any], app: str = "shop", who: Principal | None = None
) -> Machine:
    return await machines.create(town.world.ctx, who or town.acme, app, NewMachine(config=made))


async def fail(town: Town, made: dict[str, Any], **of: Any) -> errors.Failure:
    with pytest.raises(errors.Failure) as caught:
        await make(town, made, **of)
    return caught.value


async def two_apps(town: Town) -> Town:
    """Give both organizations' apps the shared address."""
    await town.world.app("inn", "rival")
    await allocated(town, "shared_v4")
    await allocated(town, "shared_v4", "inn", town.rival)
    return town


async def later(town: Town, seconds: float) -> None:
    town.world.clock.skew_ms += int(seconds * 1_000)
    await upkeep.Upkeep(town.world.ctx).sweep()


async def test_the_first_app_has_the_port_and_the_second_is_told_what_to_do(town: Town) -> None:
    await two_apps(town)
    await make(town, config(53, 5353))
    assert (await told(town)).shared_udp == (f"{SHARED}:53", f"{SHARED}:5353")
    failure = await fail(town, config(54, 53), app="inn", who=town.rival)
    assert failure.code == "failed_precondition"
    assert f"UDP port 53 of the shared address {SHARED} is another app's" in failure.message
    assert "another port" in failure.hint
    assert "godwit ips allocate-v4 --app inn" in failure.hint
    assert (await told(town, "inn")).shared_udp == ()
    await make(town, config(54), "inn", town.rival)
    assert (await told(town, "inn")).shared_udp == (f"{SHARED}:54",)


async def test_without_the_shared_address_no_port_is_taken(town: Town) -> None:
    await town.world.app("inn", "rival")
    await allocated(town, "shared_v4")
    await make(town, config(53), "inn", town.rival)
    assert (await told(town, "inn")).shared_udp == ()
    await make(town, config(53))
    assert (await told(town)).shared_udp == (f"{SHARED}:53",)
    # The other app has machines already, whose port it cannot have there.
    with pytest.raises(errors.Failure, match="UDP port 53 of the shared address"):
        await allocated(town, "shared_v4", "inn", town.rival)
    assert await addresses.listed(town.world.ctx, town.rival, "inn") == []


async def test_the_address_is_allocated_with_the_ports_of_machines_that_are_there(
    town: Town,
) -> None:
    await make(town, config(53))
    await make(town, config(123, protocol="tcp"))
    await allocated(town, "shared_v4")
    assert (await told(town)).shared_udp == (f"{SHARED}:53",)
    await addresses.release(town.world.ctx, town.acme, "shop", SHARED)
    assert (await told(town)).shared_udp == ()


async def test_a_new_config_takes_its_ports_or_is_refused(town: Town) -> None:
    await two_apps(town)
    machine = await make(town, config(53))
    theirs = await make(town, config(54), "inn", town.rival)
    asked = len(town.world.host.asked)
    with pytest.raises(errors.Failure, match="UDP port 54 of the shared address"):
        await machines.update(
            town.world.ctx, town.acme, "shop", machine.view.machine_id, NewVersion(config(54))
        )
    assert "machine.update" not in [verb for verb, _ in town.world.host.asked[asked:]]
    await machines.update(
        town.world.ctx, town.rival, "inn", theirs.view.machine_id, NewVersion(config(55))
    )
    assert (await told(town, "inn")).shared_udp == (f"{SHARED}:54", f"{SHARED}:55")


async def test_a_port_without_service_is_free_after_a_while(town: Town) -> None:
    await two_apps(town)
    machine = await make(town, config(53))
    kept = await make(town, config(54))
    kept_s = shared_ports.KEPT_MS / 1_000
    for _ in range(3):
        await later(town, kept_s)
    assert (await told(town)).shared_udp == (f"{SHARED}:53", f"{SHARED}:54")
    async with town.world.store.write() as rows:
        await rows.placements.mark_destroyed(machine.view.machine_id, 0)
    await later(town, kept_s - 5)
    # A machine made anew finds its port.
    assert (await fail(town, config(53), app="inn", who=town.rival)).code == "failed_precondition"
    await later(town, 10)
    assert (await told(town)).shared_udp == (f"{SHARED}:54",)
    await make(town, config(53), "inn", town.rival)
    assert kept.view.state != "destroyed"


async def test_a_deleted_app_lets_go_at_once(town: Town) -> None:
    await two_apps(town)
    await make(town, config(53))
    await apps.delete(town.world.ctx, town.acme, "shop")
    assert (await told(town)).shared_udp == ()
    await make(town, config(53), "inn", town.rival)


async def test_of_two_that_ask_at_once_one_has_it(town: Town) -> None:
    await two_apps(town)
    made = await asyncio.gather(
        make(town, config(53)),
        make(town, config(53), "inn", town.rival),
        return_exceptions=True,
    )
    assert sorted(isinstance(one, errors.Failure) for one in made) == [False, True]
    told_of = [(await told(town, app)).shared_udp for app in ("shop", "inn")]
    assert sorted(told_of) == [(), (f"{SHARED}:53",)]


async def test_an_app_has_no_more_than_so_many(town: Town) -> None:
    await allocated(town, "shared_v4")
    service = {
        "protocol": "udp",
        "internal_port": 9,
        "ports": [{"start_port": 1, "end_port": 65_535}],
    }
    failure = await fail(town, {"image": "nginx:1", "services": [service]})
    assert f"may have {shared_ports.MOST} UDP ports" in failure.message
    ports = range(1_000, 1_000 + shared_ports.MOST)
    await make(town, config(*ports))
    assert (await fail(town, config(53))).code == "failed_precondition"


async def test_a_deploy_is_refused_before_anything_is_touched(town: Town) -> None:
    await two_apps(town)
    await make(town, config(53), "inn", town.rival)
    yard = Yard(town.world, town.acme)
    service = {"protocol": "udp", "internal_port": 5353, "ports": [{"port": 53}]}
    with pytest.raises(errors.Failure, match="UDP port 53 of the shared address"):
        await yard.begin({"app": "shop", "services": [service]}, "nginx:1")
    async with town.world.store.read() as rows:
        assert await rows.releases.last_version(town.shop.id) == 0
    service["ports"] = [{"port": 5300}]
    await yard.begin({"app": "shop", "services": [service]}, "nginx:1")
    assert (await told(town)).shared_udp == (f"{SHARED}:5300",)
    # It is under way, however long: nobody takes its port meanwhile.
    await later(town, 2 * shared_ports.KEPT_MS / 1_000)
    assert (await told(town)).shared_udp == (f"{SHARED}:5300",)


async def test_the_address_is_not_given_twice(town: Town) -> None:
    await make(town, config(53))
    first = await allocated(town, "shared_v4")
    again = await addresses.allocate(town.world.ctx, town.acme, "shop", NewAddress("shared_v4"))
    assert again == first
    assert (await told(town)).shared_udp == (f"{SHARED}:53",)
