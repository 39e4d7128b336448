"""What would grow for ever does not: rows, tombstones, the registry; and hosts know the pins."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime

import pytest

from godwit.base import errors
from godwit.control import builds, disk, machines, organizations, registry, releases
from godwit.control.keeping import Keeping
from godwit.control.records import AuditRow
from godwit.images.collection import Space
from godwit.images.registry_disk import Contents, Pushed
from godwit.testing.control import OPERATOR, REGISTRY
from godwit.wire import host_images
from tests.unit.control.conftest import Town

DAY_MS = 86_400_000
OLD, YOUNG = (f"sha256:{letter * 64}" for letter in "ab")


class Graves:
    """A stream without tombstones, which remembers when it was asked."""

    def __init__(self) -> None:
        self.asked: list[datetime] = []
        self.away = False

    async def bury(self, before: datetime) -> int:
        if self.away:
            raise errors.Failure("unavailable", "the bus is away")
        self.asked.append(before)
        return 0


@pytest.fixture
def graves() -> Graves:
    return Graves()


def keeping(town: Town, graves: Graves | None = None) -> Keeping:
    return Keeping(town.world.ctx, graves or Graves())


def later(town: Town, ms: int) -> None:
    town.world.clock.skew_ms += ms


async def release(town: Town, image: str) -> None:
    await releases.create(town.world.ctx, town.acme, "shop", releases.NewRelease(image))


async def run(town: Town, image: str = "nginx") -> str:
    new = machines.NewMachine(config={"image": image})
    return (await machines.create(town.world.ctx, town.acme, "shop", new)).view.machine_id


def pushed(digest: str, *, age_ms: int, town: Town, repository: str = "shop") -> Pushed:
    return Pushed(repository, digest, town.world.ctx.clock.now_ms() - age_ms)


# -- pins ---------------------------------------------------------------------------------


async def test_a_host_is_told_what_the_releases_of_its_apps_need(town: Town) -> None:
    await run(town)
    await release(town, f"{REGISTRY}/shop@{OLD}")
    await release(town, "nginx:1.25")
    await keeping(town).tick()
    pins = host_images.Pins(digests=(OLD,), references=("nginx:1.25",))
    assert town.world.host.pins == pins


async def test_the_images_of_a_releases_containers_and_files_are_needed_too(town: Town) -> None:
    file = {"guest_path": "/image.json", "image_config": "file:1"}
    volumes = [{"name": "data", "image": "data:1"}, {"name": "tmp"}]
    containers: list[dict] = [{"name": "app", "image": "."}, {"name": "side", "image": "side:1"}]
    containers.append({"name": "own", "files": [file]})
    raw = json.dumps({"containers": containers, "volumes": volumes})
    for config in (
        {"machine_config": raw},
        {"experimental": {"machine_config": raw.replace(":1", ":2")}, "machine_config": raw},
        {"machine_config": "{"},
        {"machine_config": 5},
    ):
        wanted = releases.NewRelease("nginx", config=config)
        await releases.create(town.world.ctx, town.acme, "shop", wanted)
    await run(town)
    await keeping(town).tick()
    assert town.world.host.pins is not None
    further = [f"{name}:{tag}" for name in ("data", "file", "side") for tag in (1, 2)]
    assert sorted(town.world.host.pins.references) == sorted([*further, "nginx"])


async def test_only_the_newest_releases_are_pinned(town: Town) -> None:
    await run(town)
    for number in range(12):
        await release(town, f"nginx:{number}")
    await keeping(town).tick()
    assert town.world.host.pins is not None
    wanted = {f"nginx:{number}" for number in range(2, 12)}
    assert set(town.world.host.pins.references) == wanted


async def test_a_host_without_machines_of_an_app_needs_nothing_of_it(town: Town) -> None:
    await release(town, "nginx:1.25")
    await keeping(town).tick()
    assert town.world.host.pins == host_images.Pins()


async def test_a_host_is_told_again_only_when_something_changed_or_it_was_away(
    town: Town,
) -> None:
    keeper = keeping(town)
    town.world.host.away = True
    await keeper.tick()
    town.world.host.away = False
    for _ in range(3):
        await keeper.tick()

    def told() -> int:
        return sum(verb == "images.pin" for verb, _ in town.world.host.asked)

    assert told() == 2
    await run(town)
    await release(town, "nginx:1.25")
    await keeper.tick()
    assert told() == 3
    later(town, 3_600_000)
    await keeper.tick()
    assert told() == 4


# -- the registry -------------------------------------------------------------------------


async def test_the_registry_loses_what_no_release_and_no_machine_needs(town: Town) -> None:
    machine = f"sha256:{'c' * 64}"
    town.world.host.pins = None
    view_image = await run(town, f"{REGISTRY}/shop@{machine}")
    assert view_image
    await release(town, f"{REGISTRY}/shop:v7")
    tagged = replace(pushed(f"sha256:{'d' * 64}", age_ms=9 * DAY_MS, town=town))
    tagged = replace(tagged, tags=frozenset({"v7"}))
    stock = [
        pushed(OLD, age_ms=2 * DAY_MS, town=town),
        pushed(YOUNG, age_ms=DAY_MS // 2, town=town),
        pushed(machine, age_ms=9 * DAY_MS, town=town),
        tagged,
    ]
    town.world.warehouse.stock = Contents(tuple(stock))
    await keeping(town).collect()
    ((gone, keep),) = town.world.warehouse.collected
    assert [one.digest for one in gone] == [OLD]
    assert keep == {"shop"}
    page = await organizations.audit_page(
        town.world.ctx, OPERATOR, org_slug=None, before="", limit=1
    )
    assert (page[0].action, page[0].detail["images"]) == ("registry.collect", 1)


async def test_the_registry_keeps_what_containers_of_machines_run(town: Town) -> None:
    containers = [
        {"name": "app", "image": "nginx"},
        {"name": "side", "image": f"{REGISTRY}/shop/side@{OLD}"},
    ]
    new = machines.NewMachine(config={"containers": containers})
    await machines.create(town.world.ctx, town.acme, "shop", new)
    stock = [
        pushed(digest, age_ms=2 * DAY_MS, town=town, repository="shop/side")
        for digest in (OLD, YOUNG)
    ]
    town.world.warehouse.stock = Contents(tuple(stock))
    await keeping(town).collect()
    ((gone, _),) = town.world.warehouse.collected
    assert [one.digest for one in gone] == [YOUNG]


async def test_nothing_is_done_to_a_registry_that_holds_nothing_to_collect(town: Town) -> None:
    town.world.warehouse.stock = Contents((pushed(YOUNG, age_ms=0, town=town),))
    await keeping(town).collect()
    assert town.world.warehouse.collected == []


async def test_uploads_that_no_image_names_are_worth_a_collection_when_they_are_many(
    town: Town,
) -> None:
    town.world.warehouse.stock = Contents(orphan_bytes=1 << 30)
    await keeping(town).collect()
    assert len(town.world.warehouse.collected) == 1


async def test_a_registry_that_somebody_pushes_to_is_left_alone(town: Town) -> None:
    now_ms = town.world.ctx.clock.now_ms()
    stock = Contents((pushed(OLD, age_ms=2 * DAY_MS, town=town),), written_at_ms=now_ms)
    town.world.warehouse.stock = stock
    with pytest.raises(errors.Failure, match="pushes"):
        await keeping(town).collect()
    assert town.world.warehouse.collected == []
    later(town, 601_000)
    await keeping(town).collect()
    assert len(town.world.warehouse.collected) == 1


async def test_a_collection_holds_builds_up_and_lets_them_go_on(town: Town) -> None:
    town.world.warehouse.stock = Contents((pushed(OLD, age_ms=2 * DAY_MS, town=town),))
    slots = town.world.ctx.build_slots
    seen = []
    collect = town.world.warehouse.collect

    async def watched(images, keep) -> None:  # type: ignore[no-untyped-def]
        seen.append(slots.locked())
        await collect(images, keep)

    town.world.warehouse.collect = watched  # type: ignore[method-assign]
    await keeping(town).collect()
    assert seen == [True]
    assert not slots.locked()
    async with asyncio.timeout(60), slots, slots:
        pass


async def test_one_failed_chore_holds_up_no_other(town: Town, graves: Graves) -> None:
    graves.away = True
    keeper = keeping(town, graves)
    town.world.warehouse.stock = Contents((pushed(OLD, age_ms=2 * DAY_MS, town=town),))
    town.world.warehouse.failure = errors.Failure("unavailable", "no")
    later(town, 700_000)
    await keeper.tick()
    town.world.warehouse.failure, graves.away = None, False
    await keeper.tick()
    assert len(graves.asked) == 1
    assert town.world.warehouse.collected == []
    later(town, 3_600_000)
    await keeper.tick()
    assert len(town.world.warehouse.collected) == 1


# -- rows ---------------------------------------------------------------------------------


async def test_old_audit_rows_go_and_young_ones_stay(town: Town) -> None:
    async with town.world.store.write() as rows:
        for number in range(1_200):
            await rows.audit.add(
                AuditRow(f"aud_00000{number:021}", number, "user:a", None, "a", "b", {})
            )
    before = await all_audit(town)
    await keeping(town).forget()
    left = await all_audit(town)
    assert len(before) - len(left) == 1_200
    later(town, 364 * DAY_MS)
    await keeping(town).forget()
    assert await all_audit(town) == left
    later(town, 2 * DAY_MS)
    await keeping(town).forget()
    assert await all_audit(town) == []


async def all_audit(town: Town) -> list[AuditRow]:
    async with town.world.store.read() as rows:
        return await rows.audit.page(None, before="", limit=5_000)


async def test_a_destroyed_machine_is_forgotten_after_its_time_and_a_living_one_never(
    town: Town,
) -> None:
    gone, stays = await run(town), await run(town)
    async with town.world.store.write() as rows:
        await rows.placements.mark_destroyed(gone, town.world.ctx.clock.now_ms())
    later(town, 89 * DAY_MS)
    await keeping(town).forget()
    async with town.world.store.read() as rows:
        assert await rows.placements.get(gone)
    later(town, 2 * DAY_MS)
    await keeping(town).forget()
    async with town.world.store.read() as rows:
        assert await rows.placements.get(gone) is None
        assert await rows.placements.versions(gone, 10) == []
        assert await rows.placements.get(stays)


async def test_tombstones_of_an_earlier_release_are_buried_once_a_day(
    town: Town, graves: Graves
) -> None:
    keeper = keeping(town, graves)
    await keeper.tick()
    await keeper.tick()
    assert len(graves.asked) == 1
    age = town.world.ctx.clock.now_ms() / 1_000 - graves.asked[0].timestamp()
    assert age == pytest.approx(7 * 86_400, abs=60)
    later(town, DAY_MS)
    await keeper.tick()
    assert len(graves.asked) == 2


# -- disk ---------------------------------------------------------------------------------

FULL = 51 * 1024**3


async def test_an_organization_that_is_full_may_pull_but_not_push(town: Town) -> None:
    town.world.warehouse.sizes = {"shop": FULL}
    with pytest.raises(errors.Failure, match=r"52224 MB .* 51200 MB") as refused:
        await registry.grant(town.world.ctx, town.acme, ["repository:shop:pull,push"])
    assert refused.value.code == "permission_denied"
    assert await registry.grant(town.world.ctx, town.acme, ["repository:shop:pull"])


async def test_one_organization_that_is_full_does_not_stop_another(town: Town) -> None:
    town.world.warehouse.sizes = {"shop": FULL}
    await town.world.app("theirs", "rival")
    assert await registry.grant(town.world.ctx, town.rival, ["repository:theirs:push"])


async def test_a_build_fails_before_it_begins_when_its_image_could_not_be_kept(
    town: Town,
) -> None:
    town.world.warehouse.sizes = {"shop": FULL}
    with pytest.raises(errors.Failure, match="may have"):
        await builds.admit(town.world.ctx, OPERATOR, "shop", builds.Wanted(force=True))


async def test_nobody_pushes_to_a_registry_whose_disk_is_full(town: Town) -> None:
    town.world.warehouse.disk = Space(total_bytes=100, free_bytes=4)
    with pytest.raises(errors.Failure, match="96% full"):
        await registry.grant(town.world.ctx, town.acme, ["repository:shop:push"])


async def test_what_an_organization_takes_is_shown_to_it_alone(town: Town) -> None:
    await run(town)
    town.world.warehouse.sizes = {"shop": 7}
    taken = host_images.DiskUsage(image_bytes=5, machine_bytes=3)
    town.world.host.disk = {town.shop.org_id: taken}
    org, shown = await disk.usage(town.world.ctx, town.acme, "acme")
    assert org.slug == "acme"
    assert (shown.registry_bytes, shown.image_bytes, shown.machine_bytes) == (7, 5, 3)
    with pytest.raises(errors.Failure) as refused:
        await disk.usage(town.world.ctx, town.rival, "acme")
    assert refused.value.code == "not_found"
    town.world.host.away = True
    _, shown = await disk.usage(town.world.ctx, town.acme, "acme")
    assert shown.silent_hosts == (town.world.host.host_id,)
