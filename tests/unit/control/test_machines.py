"""Machines: placed, updated, read while hosts come and go."""

import pytest

from godwit.base import errors
from godwit.control import listing, machines, upkeep
from godwit.testing.hosts import SimulatedHost
from godwit.wire import host_rpc
from tests.unit.control.conftest import Town, listed

IMAGE = {"image": "nginx:1"}


async def make(town: Town, config: dict | None = None, **wanted: object) -> machines.Machine:
    new = machines.NewMachine(config=config or IMAGE, **wanted)  # type: ignore[arg-type]
    return await machines.create(town.world.ctx, town.acme, "shop", new)


async def fail(town: Town, config: dict | None = None, **wanted: object) -> errors.Failure:
    with pytest.raises(errors.Failure) as caught:
        await make(town, config, **wanted)
    return caught.value


async def rows_of(town: Town) -> list:
    async with town.world.store.read() as rows:
        return await rows.placements.unwanted(2**62, 100)


async def test_the_offer_carries_everything_the_host_needs(town: Town) -> None:
    machine = await make(town, name="web", cordoned=True)
    verb, body = town.world.host.asked[-1]
    offer = host_rpc.Offer.model_validate(body)
    assert verb == "machine.reserve"
    assert offer.org_slug == "acme"
    assert offer.network_number == 1
    assert offer.config == IMAGE
    assert offer.image.digest.startswith("sha256:")
    assert (offer.name, offer.cordoned, offer.pull_token) == ("web", True, None)
    assert machine.view.machine_id == offer.machine_id
    assert town.world.hosts.principals[-1] == town.acme


async def test_a_name_is_unique_among_the_living(town: Town) -> None:
    first = await make(town, name="web")
    assert (await fail(town, name="web")).code == "already_exists"
    town.world.host.machines[first.view.machine_id].state = "destroyed"
    town.world.host.machines[first.view.machine_id].revision += 5
    await machines.get(town.world.ctx, town.acme, "shop", first.view.machine_id)
    await make(town, name="web")


async def test_the_best_bid_wins(town: Town) -> None:
    big = SimulatedHost("b0000000", memory_mb=65_536)
    await town.world.add_host(big, 2)
    assert (await make(town)).view.host_id == "b0000000"


async def test_a_refusal_goes_on_to_the_next_bid(town: Town) -> None:
    big = SimulatedHost("b0000000", memory_mb=65_536)
    big.refuse_reserve = [errors.Failure("insufficient_capacity", "no disk left")]
    await town.world.add_host(big, 2)
    assert (await make(town)).view.host_id == "a1b2c3d4"


async def test_no_room_says_why(town: Town) -> None:
    guest = {"cpu_kind": "performance", "cpus": 2, "memory_mb": 16_384}
    failure = await fail(town, {"image": "x", "guest": guest})
    assert failure.code == "insufficient_capacity"
    assert "16384 MB" in failure.message
    assert "a1b2c3d4 has 8192 MB free" in failure.message
    assert failure.hint


async def test_a_region_that_is_cut_off_is_passed_over_and_told(town: Town) -> None:
    await town.world.add_host(SimulatedHost("f0000000", region="fra"), 2)
    town.world.hosts.cut_off.add("lcl")
    assert (await make(town, region="lcl,fra")).view.region == "fra"
    failure = await fail(town, region="lcl")
    assert (failure.code, failure.hint != "") == ("unavailable", True)
    assert "the bus of region lcl is away" in failure.message


async def test_what_failed_leaves_nothing(town: Town) -> None:
    await fail(town, {"image": "x", "guest": {"cpu_kind": "performance", "cpus": 16}}, name="web")
    assert (await make(town, name="web")).view.name == "web"
    await upkeep.Upkeep(town.world.ctx).sweep()
    assert await rows_of(town) == []


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"region": "fra"}, "invalid_argument"),
        ({"region": "lcl,fra"}, None),
        ({"region": "any"}, None),
        ({"name": "x" * 64}, "invalid_argument"),
        ({"name": "a\nb"}, "invalid_argument"),
        ({"config": {"image": "missing"}}, "manifest_unknown"),
        ({"config": {"image": ""}}, "invalid_argument"),
    ],
)
async def test_wishes_that_cannot_be_met_are_told(town: Town, wanted: dict, code: str) -> None:
    if code is None:
        await make(town, **wanted)
        return
    assert (await fail(town, **wanted)).code == code


async def test_an_unanswered_offer_is_made_again_and_not_twice(town: Town) -> None:
    town.world.host.lose_replies = 2
    machine = await make(town)
    asked = [body["machine_id"] for verb, body in town.world.host.asked if "reserve" in verb]
    assert asked == [machine.view.machine_id] * 3
    assert len(town.world.host.machines) == 1


async def test_an_offer_never_answered_is_destroyed_later(town: Town) -> None:
    town.world.host.lose_replies = 3
    failure = await fail(town)
    assert failure.code == "deadline_exceeded"
    assert await listed(town) == []
    await upkeep.Upkeep(town.world.ctx).sweep()
    assert [one.state for one in town.world.host.machines.values()] == ["destroyed"]


async def test_a_creation_that_upkeep_has_given_up_is_not_accepted_afterwards(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = town.world.hosts.call

    async def slowly(host_id: str, verb: str, *rest: object, **more: object) -> dict:
        answer = await call(host_id, verb, *rest, **more)
        if verb == "machine.reserve":
            town.world.clock.skew_ms += 121_000
            await upkeep.Upkeep(town.world.ctx).sweep()
        return answer

    monkeypatch.setattr(town.world.hosts, "call", slowly)
    failure = await fail(town)
    assert failure.code == "unavailable"
    assert "took too long" in failure.message
    assert await listed(town) == []
    assert [one.state for one in town.world.host.machines.values()] == ["destroyed"]
    (left,) = await rows_of(town)
    assert left.status == "abandoned"


async def test_a_host_that_is_away_is_told_as_such(town: Town) -> None:
    machine = await make(town)
    await machines.get(town.world.ctx, town.acme, "shop", machine.view.machine_id)
    town.world.host.away = True
    found = await machines.get(town.world.ctx, town.acme, "shop", machine.view.machine_id)
    assert (found.host_status, found.view.state) == ("unreachable", "started")
    assert found.view.config == IMAGE
    assert [one.host_status for one in await listed(town)] == ["unreachable"]
    assert (await fail(town)).code == "unavailable"


async def test_a_machine_its_host_forgot_stays_readable(town: Town) -> None:
    machine = await make(town)
    machine_id = machine.view.machine_id
    town.world.host.machines[machine_id].state = "destroyed"
    town.world.host.machines[machine_id].revision += 5
    await machines.get(town.world.ctx, town.acme, "shop", machine_id)
    del town.world.host.machines[machine_id]
    found = await machines.get(town.world.ctx, town.acme, "shop", machine_id)
    assert (found.view.state, found.destroyed) == ("destroyed", True)
    assert {event.type for event in found.view.events} >= {"start", "launch"}


async def test_lists_are_filtered(town: Town) -> None:
    first = await make(town, {**IMAGE, "metadata": {"a": "1", "b": "2"}})
    await make(town, {**IMAGE, "metadata": {"a": "1"}}, skip_launch=True)

    async def count(**only: object) -> int:
        wanted = listing.Filter(**only)  # type: ignore[arg-type]
        return len(await listed(town, wanted))

    assert await count() == 2
    assert await count(states=frozenset({"stopped"})) == 1
    assert await count(states=frozenset({"started", "stopped"})) == 2
    assert await count(metadata=(("a", "1"), ("b", "2"))) == 1
    assert await count(regions=frozenset({"fra"})) == 0
    del town.world.host.machines[first.view.machine_id]
    assert await count() == 2


async def test_an_update_makes_a_version_and_the_old_one_is_replaced(town: Town) -> None:
    ctx = town.world.ctx
    machine = await make(town)
    machine_id, old = machine.view.machine_id, machine.view.instance_id
    new = machines.NewVersion(config={"image": "nginx:2"}, current_version=old)
    updated = await machines.update(ctx, town.acme, "shop", machine_id, new)
    assert updated.view.config == {"image": "nginx:2"}
    found = await machines.get(ctx, town.acme, "shop", machine_id, version=old)
    assert (found.view.state, found.view.config) == ("replaced", IMAGE)
    with pytest.raises(errors.Failure) as caught:
        await machines.update(ctx, town.acme, "shop", machine_id, new)
    assert caught.value.code == "conflict"
    known = await machines.versions(ctx, town.acme, "shop", machine_id)
    assert [one.user_config["image"] for one in known] == ["nginx:2", "nginx:1"]


@pytest.mark.parametrize("wrong", [{"name": "other"}, {"region": "fra"}])
async def test_name_and_region_never_change(town: Town, wrong: dict) -> None:
    machine = await make(town, name="web")
    new = machines.NewVersion(config=IMAGE, **wrong)
    with pytest.raises(errors.Failure) as caught:
        await machines.update(town.world.ctx, town.acme, "shop", machine.view.machine_id, new)
    assert caught.value.code == "invalid_argument"


async def test_an_image_of_the_own_registry_gets_a_pull_token(town: Town) -> None:
    registry = town.world.ctx.options.registry
    await make(town, {"image": f"{registry}/shop:v1"})
    assert town.world.images.asked[-1][1]
    assert town.world.host.asked[-1][1]["pull_token"]


async def test_an_image_of_somebody_elses_app_is_refused(town: Town) -> None:
    await town.world.app("secret", "rival")
    registry = town.world.ctx.options.registry
    for name in ("secret:v1", "secret/part:v1", "nobody:v1"):
        assert (await fail(town, {"image": f"{registry}/{name}"})).code == "permission_denied"


async def test_an_app_deleted_meanwhile_gets_no_machine(town: Town) -> None:
    from godwit.control import removal

    class Deleting:
        async def resolve(self, reference: str, token: str | None) -> host_rpc.ImageRef:
            await removal.delete_app(town.world.ctx, town.acme, "shop", force=True)
            return await town.world.images.resolve(reference, token)

    from dataclasses import replace

    ctx = replace(town.world.ctx, images=Deleting())
    with pytest.raises(errors.Failure) as caught:
        await machines.create(ctx, town.acme, "shop", machines.NewMachine(config=IMAGE))
    assert caught.value.code == "not_found"
    assert town.world.host.machines == {}
