"""What goes on without a request: publishing facts, following hosts, finishing what was left."""

import asyncio

import pytest

from godwit.base import errors, tasks
from godwit.control import machine_actions, machines, removal, upkeep
from godwit.control.publisher import Publisher, Publishers
from godwit.control.records import OutboxRow
from godwit.control.strays import Strays
from godwit.control.watcher import Watcher
from godwit.testing.control import OPERATOR, World
from godwit.testing.facts import MemoryFacts
from godwit.wire import facts
from tests.unit.control.conftest import Town, listed


async def make(town: Town, **wanted: object) -> str:
    new = machines.NewMachine(config={"image": "nginx"}, **wanted)  # type: ignore[arg-type]
    return (await machines.create(town.world.ctx, town.acme, "shop", new)).view.machine_id


def newest(world: World, app: str) -> facts.AppFact:
    found = world.stream.newest[f"facts.lcl.app.control.{app}"]
    assert isinstance(found, facts.AppFact)
    return found


async def due(town: Town) -> list[OutboxRow]:
    """Return what the region was not told of yet."""
    async with town.world.store.read() as rows:
        told = await rows.publications.get("lcl")
        assert told is not None
        assert told.position is not None
        return await rows.outbox.after(told.position, 10)


async def watch_all(world: World, publisher: Publisher) -> None:
    """Apply everything that the stream holds now."""
    batch = list(world.stream.newest.values())
    await Watcher(world.ctx, publisher.republish, Strays(world.ctx)).apply_batch(batch)


async def test_an_app_is_published_with_its_host_name(town: Town) -> None:
    await Publisher(town.world.ctx, "lcl", town.world.stream).publish_once()
    fact = newest(town.world, "shop")
    assert fact.hostnames == ("shop.godwit.localhost",)
    assert (fact.network_number, fact.org_id, fact.deleted) == (1, town.shop.org_id, False)


async def test_a_deleted_app_is_published_as_a_tombstone_that_a_new_one_replaces(
    town: Town,
) -> None:
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await publisher.publish_once()
    first = newest(town.world, "shop")
    await removal.delete_app(town.world.ctx, OPERATOR, "shop", force=False)
    await publisher.publish_once()
    gone = newest(town.world, "shop")
    assert gone.deleted
    assert gone.revision > first.revision
    await town.world.app("shop", "acme")
    await publisher.publish_once()
    again = newest(town.world, "shop")
    assert (again.deleted, again.revision > gone.revision) == (False, True)
    publisher.republish()
    await publisher.publish_once()
    assert newest(town.world, "shop") == again


async def test_what_the_bus_did_not_take_stays_due(town: Town) -> None:
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    town.world.stream.away = True
    with pytest.raises(errors.Failure):
        await publisher.publish_once()
    town.world.stream.away = False
    await publisher.publish_once()
    assert newest(town.world, "shop")
    assert await due(town) == []


async def test_a_fact_that_the_bus_can_never_take_holds_up_no_others(town: Town) -> None:
    stream = town.world.stream
    publish = stream.publish

    async def refuse_one(fact: facts.Fact) -> None:
        if isinstance(fact, facts.AppFact) and fact.app == "shop":
            raise errors.invalid("it is too long")
        await publish(fact)

    stream.publish = refuse_one
    await town.world.app("later", "acme")
    publisher = Publisher(town.world.ctx, "lcl", stream)
    await publisher.publish_once()
    assert newest(town.world, "later")
    assert await due(town) == []


async def test_a_doubt_that_arises_while_all_is_published_is_not_lost(town: Town) -> None:
    stream = town.world.stream
    publisher = Publisher(town.world.ctx, "lcl", stream)
    publish = stream.publish

    async def bus_forgets_once(fact: facts.Fact) -> None:
        await publish(fact)
        stream.publish = publish
        stream.newest.clear()
        publisher.republish()

    stream.publish = bus_forgets_once
    await publisher.publish_once()
    stream.newest.clear()
    await publisher.publish_once()
    assert newest(town.world, "shop")


async def test_the_publisher_wakes_for_each_change(town: Town) -> None:
    async with tasks.Tasks("test") as owned:
        owned.spawn(Publisher(town.world.ctx, "lcl", town.world.stream).run(), name="publish")
        await town.world.app("fresh", "acme")
        async with asyncio.timeout(60):
            while "facts.lcl.app.control.fresh" not in town.world.stream.newest:
                await asyncio.sleep(0.01)


async def test_of_several_replicas_one_tells_a_region_and_the_next_begins_with_everything(
    town: Town,
) -> None:
    ctx, stream = town.world.ctx, town.world.stream
    first, second = Publisher(ctx, "lcl", stream), Publisher(ctx, "lcl", stream)
    await first.publish_once()
    told = len(stream.published)
    await second.publish_once()
    assert len(stream.published) == told
    town.world.clock.skew_ms = 21_000
    await second.publish_once()
    assert len(stream.published) == 2 * told
    await town.world.app("later", "acme")
    await first.publish_once()
    assert "facts.lcl.app.control.later" not in stream.newest
    await second.publish_once()
    assert newest(town.world, "later")


async def test_a_region_that_is_away_holds_up_no_other_and_nothing_piles_up_for_it(
    town: Town,
) -> None:
    ctx, away = town.world.ctx, MemoryFacts("iad")
    here, there = Publisher(ctx, "lcl", town.world.stream), Publisher(ctx, "iad", away)
    await there.publish_once()
    away.away = True
    for number in range(5):
        await town.world.app(f"app-{number}", "acme")
        await here.publish_once()
        with pytest.raises(errors.Failure):
            await there.publish_once()
    assert newest(town.world, "app-4")
    async with town.world.store.read() as rows:
        assert len(await rows.outbox.after(0, 100)) <= 1
    away.away = False
    await there.publish_once()
    apps = {fact.app for fact in away.newest.values() if fact.kind == "app"}
    assert apps == {"shop", *(f"app-{number}" for number in range(5))}


async def test_every_app_is_published_again_whatever_their_number(town: Town) -> None:
    for number in range(205):
        await town.world.app(f"app-{number}", "acme")
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await publisher.publish_once()
    town.world.stream.newest.clear()
    publisher.republish()
    await publisher.publish_once()
    apps = [fact for fact in town.world.stream.newest.values() if fact.kind == "app"]
    assert len(apps) == 206


async def test_a_catalog_newer_than_the_database_begins_an_epoch(town: Town) -> None:
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await publisher.publish_once()
    old = newest(town.world, "shop")
    await town.world.stream.publish(old.model_copy(update={"revision": old.revision + 50}))
    await watch_all(town.world, publisher)
    await publisher.publish_once()
    restored = newest(town.world, "shop")
    assert (restored.epoch, restored.revision) == (old.epoch + 1, old.revision)
    await watch_all(town.world, publisher)
    async with town.world.store.read() as rows:
        assert (await rows.meta.get()).epoch == old.epoch + 1


async def test_facts_keep_the_view_of_a_host_that_went_away(town: Town) -> None:
    machine_id = await make(town)
    await town.world.host.exit(machine_id, 3)
    await watch_all(town.world, Publisher(town.world.ctx, "lcl", town.world.stream))
    town.world.host.away = True
    found = await machines.get(town.world.ctx, town.acme, "shop", machine_id)
    assert (found.view.state, found.host_status) == ("stopped", "unreachable")


async def test_an_older_fact_never_replaces_a_newer_one(town: Town) -> None:
    machine_id = await make(town)
    machine = town.world.host.machines[machine_id]
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    old = town.world.host.fact(machine).model_copy(update={"state": "starting", "revision": 0})
    await watch_all(town.world, publisher)
    await Watcher(town.world.ctx, publisher.republish, Strays(town.world.ctx)).apply_batch([old])
    async with town.world.store.read() as rows:
        row = await rows.placements.get(machine_id)
    assert row is not None
    assert row.state == "started"


async def test_a_fact_from_another_host_changes_nothing(town: Town) -> None:
    machine_id = await make(town)
    machine = town.world.host.machines[machine_id]
    forged = town.world.host.fact(machine).model_copy(
        update={"owner": "ffffffff", "host_id": "ffffffff", "deleted": True, "revision": 999}
    )
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await Watcher(town.world.ctx, publisher.republish, Strays(town.world.ctx)).apply_batch(
        [forged]
    )
    async with town.world.store.read() as rows:
        row = await rows.placements.get(machine_id)
    assert row is not None
    assert row.destroyed_at_ms is None


async def test_the_last_word_of_a_destroyed_machine_is_kept(town: Town) -> None:
    ctx = town.world.ctx
    machine_id = await make(town, name="job")
    await town.world.host.exit(machine_id, 7)
    await machine_actions.destroy(ctx, town.acme, "shop", machine_id, force=True)
    await watch_all(town.world, Publisher(ctx, "lcl", town.world.stream))
    town.world.host.machines.clear()
    found = await machines.get(ctx, town.acme, "shop", machine_id)
    assert found.view.state == "destroyed"
    ended = [event for event in found.view.events if event.type == "exit"]
    assert ended[0].request is not None
    assert ended[0].request["exit_event"]["exit_code"] == 7
    assert await make(town, name="job")


async def test_a_machine_nobody_noted_is_taken_into_the_books(town: Town) -> None:
    machine_id = await make(town, name="web")
    async with town.world.store.write() as rows:
        await rows.placements.remove(machine_id)
    await watch_all(town.world, Publisher(town.world.ctx, "lcl", town.world.stream))
    found = await listed(town)
    assert [(one.view.machine_id, one.view.state) for one in found] == [(machine_id, "started")]


async def test_a_machine_of_no_known_app_is_left_alone(town: Town) -> None:
    machine_id = await make(town)
    machine = town.world.host.machines[machine_id]
    strange = town.world.host.fact(machine).model_copy(
        update={"app_id": "app_unknown", "machine_id": "0" * 14}
    )
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await Watcher(town.world.ctx, publisher.republish, Strays(town.world.ctx)).apply_batch(
        [strange]
    )
    async with town.world.store.read() as rows:
        assert await rows.placements.get("0" * 14) is None


async def test_the_watcher_follows_the_stream(town: Town) -> None:
    watcher = Watcher(town.world.ctx, Publishers(town.world.ctx).republish, Strays(town.world.ctx))
    machine_id = await make(town)
    async with tasks.Tasks("test") as owned:
        owned.spawn(watcher.read(town.world.stream), name="read")
        owned.spawn(watcher.apply(), name="apply")
        await town.world.host.exit(machine_id, 0)
        async with asyncio.timeout(60):
            while True:
                async with town.world.store.read() as rows:
                    row = await rows.placements.get(machine_id)
                if row is not None and row.state == "stopped":
                    break
                await asyncio.sleep(0.01)


async def test_stale_offers_are_withdrawn_and_the_machine_destroyed(town: Town) -> None:
    machine_id = await make(town)
    async with town.world.store.write() as rows:
        await rows.placements._update(machine_id, status="offered", updated_at_ms=0)
    sweeper = upkeep.Upkeep(town.world.ctx)
    await sweeper.sweep()
    assert town.world.host.machines[machine_id].state == "started"
    town.world.clock.skew_ms = 121_000
    await sweeper.sweep()
    assert town.world.host.machines[machine_id].state == "destroyed"
    town.world.clock.skew_ms = 1_000_000
    await sweeper.sweep()
    async with town.world.store.read() as rows:
        assert await rows.placements.get(machine_id) is None


async def test_machines_of_a_deleted_app_go_when_their_host_is_back(town: Town) -> None:
    machine_id = await make(town)
    town.world.host.away = True
    await removal.delete_app(town.world.ctx, town.acme, "shop", force=True)
    sweeper = upkeep.Upkeep(town.world.ctx)
    await sweeper.sweep()
    town.world.host.away = False
    await sweeper.sweep()
    assert town.world.host.machines[machine_id].state == "started"
    town.world.clock.skew_ms = 11_000
    await sweeper.sweep()
    assert town.world.host.machines[machine_id].state == "destroyed"
    async with town.world.store.read() as rows:
        row = await rows.placements.get(machine_id)
    assert row is not None
    assert row.destroyed_at_ms is not None


async def test_a_creation_under_way_is_not_swept(town: Town) -> None:
    machine_id = await make(town)
    async with town.world.store.write() as rows:
        await rows.placements._update(machine_id, status="offered", updated_at_ms=0)
        await rows.placements.want_destroyed(town.shop.id, 0)
    await upkeep.Upkeep(town.world.ctx).sweep()
    assert town.world.host.machines[machine_id].state == "started"
