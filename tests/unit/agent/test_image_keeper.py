"""Which images a host lets go of: never one a machine has, a release needs or a pull is at."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import app
from godwit.agent.ports import LocalImage
from godwit.base import errors, tasks
from godwit.testing import agents, world
from godwit.wire import host_rpc
from tests.unit.agent.bench import USER, WHO, Bench, M, N

ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")


class GatedImages(world.FakeImages):
    """Images whose pulls and removals can be met half way."""

    def __init__(self, hands: world.Hands) -> None:
        super().__init__(hands)
        self.gates: dict[str, Callable[[], Awaitable[object]]] = {}

    async def ensure(self, image: host_rpc.ImageRef, token: str | None) -> LocalImage:
        made = await super().ensure(image, token)
        if gate := self.gates.get("ensure"):
            await gate()
        return made

    async def remove(self, digest: str, *, unless: Callable[[], bool]) -> bool:
        if gate := self.gates.get("remove"):
            await gate()
        return await super().remove(digest, unless=unless)


class Gated(Bench):
    """An agent over such images."""

    def __init__(self, directory: Path, owned: tasks.Tasks) -> None:
        super().__init__(directory, owned)
        self.images = GatedImages(self.hands)
        self.parts = dataclasses.replace(self.parts, images=self.images)
        self.app = app.App(self.parts, owned)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Gated]:
    async with tasks.Tasks("test") as owned:
        made = Gated(tmp_path, owned)
        await made.app.start()
        yield made
    await made.database.close()


def offer(machine_id: str, digest: str = ONE) -> dict[str, Any]:
    return agents.offer(machine_id, image=agents.image(digest)).model_dump(mode="json")


async def create(bench: Gated, machine_id: str, digest: str = ONE) -> None:
    await bench.call("machine.reserve", **offer(machine_id, digest))
    await bench.reach("started", machine_id)


async def held(bench: Gated) -> dict[str, str]:
    answer = await bench.call("images.list")
    return {one["digest"]: one["held"] for one in answer["images"]}


async def test_nothing_goes_before_control_has_said_what_releases_need(bench: Gated) -> None:
    bench.world.images.update({ONE, TWO})
    await bench.app.image_keeper.sweep()
    await bench.app.image_keeper.make_room()
    assert bench.world.images == {ONE, TWO}
    with pytest.raises(errors.Failure, match="not been told"):
        await bench.call("images.prune")


async def test_what_nothing_needs_goes_and_the_rest_stays(bench: Gated) -> None:
    await create(bench, M, ONE)
    bench.world.images.update({TWO, THREE})
    await bench.call("images.pin", digests=[TWO])
    assert await held(bench) == {ONE: "in use", TWO: "pinned", THREE: ""}
    await bench.app.image_keeper.sweep()
    assert bench.world.images == {ONE, TWO}


@pytest.mark.parametrize("request_", ["machine.stop", "machine.destroy"])
async def test_a_machine_holds_its_image_until_it_is_destroyed(
    bench: Gated, request_: str
) -> None:
    await create(bench, M, ONE)
    await bench.call("images.pin")
    await bench.call(request_, machine_id=M, force=True)
    state = "stopped" if request_ == "machine.stop" else "destroyed"
    await bench.reach(state)
    await bench.app.image_keeper.sweep()
    assert bench.world.images == ({ONE} if state == "stopped" else set())


async def test_a_machine_holds_the_images_of_its_containers(bench: Gated) -> None:
    images = [agents.image(ONE), agents.image(TWO)]
    names = [{"name": "a", "image": "one"}, {"name": "b", "image": "two"}]
    given = offer(M) | {"config": {"containers": names}, "container_images": images}
    await bench.call("machine.reserve", **given)
    await bench.reach("started")
    await bench.call("images.pin")
    assert await held(bench) == {ONE: "in use", TWO: "in use"}
    await bench.app.image_keeper.sweep()
    assert bench.world.images == {ONE, TWO}
    await bench.call("machine.destroy", machine_id=M, force=True)
    await bench.reach("destroyed")
    await bench.app.image_keeper.sweep()
    assert bench.world.images == set()


async def test_a_version_on_its_way_holds_its_image(bench: Gated) -> None:
    await create(bench, M, ONE)
    await bench.call("images.pin")
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def gate() -> None:
        arrived.set()
        await go_on.wait()

    bench.images.gates["ensure"] = gate
    update = agents.update(M, "01VNEW", image=agents.image(TWO))
    await bench.call("machine.update", **update)
    await asyncio.wait_for(arrived.wait(), 60)
    await bench.app.image_keeper.sweep()
    assert TWO in bench.world.images
    go_on.set()
    await bench.reach("started")


async def test_a_machine_that_comes_at_the_last_moment_keeps_its_image(bench: Gated) -> None:
    bench.world.images.update({ONE})
    await bench.call("images.pin")

    async def gate() -> None:
        await bench.call("machine.reserve", **offer(N, ONE))

    bench.images.gates["remove"] = gate
    await bench.app.image_keeper.sweep()
    assert bench.world.images == {ONE}


async def test_pins_outlive_the_agent(bench: Gated) -> None:
    bench.world.images.update({ONE, TWO})
    await bench.call("images.pin", digests=[ONE])
    async with tasks.Tasks("next") as owned:
        following = app.App(bench.parts, owned)
        await following.image_keeper.load()
        await following.image_keeper.sweep()
    assert bench.world.images == {ONE}


async def test_a_reference_without_a_digest_holds_the_image_last_pulled_by_it(
    bench: Gated,
) -> None:
    bench.world.images.update({ONE, TWO})
    await bench.call("images.pin", references=[ONE])
    assert await held(bench) == {ONE: "pinned", TWO: ""}


async def test_a_dry_run_says_what_would_go_and_removes_nothing(bench: Gated) -> None:
    bench.world.images.update({ONE})
    await bench.call("images.pin")
    would = await bench.call("images.prune", dry_run=True)
    assert [one["digest"] for one in would["removed"]] == [ONE]
    assert bench.world.images == {ONE}
    assert await bench.call("images.prune") == would
    assert bench.world.images == set()


@pytest.mark.parametrize("verb", ["images.pin", "images.list", "images.prune"])
async def test_tenants_neither_see_nor_touch_a_hosts_images(bench: Gated, verb: str) -> None:
    with pytest.raises(errors.Failure) as refused:
        await bench.call(verb, USER)
    assert refused.value.code == "permission_denied"


async def test_an_organization_is_told_what_it_takes_and_no_other_is(bench: Gated) -> None:
    await create(bench, M, ONE)
    bench.world.images.add(TWO)
    logs = bench.parts.vmm.logs_directory(M)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "a").write_bytes(b"x" * 5000)
    mine = await bench.call("disk.usage", USER, org_id="org_a")
    assert mine["image_bytes"] == 1
    assert mine["machine_bytes"] >= 5000
    with pytest.raises(errors.Failure):
        await bench.call("disk.usage", USER, org_id="org_b")
    assert (await bench.call("disk.usage", WHO, org_id="org_b"))["image_bytes"] == 0
