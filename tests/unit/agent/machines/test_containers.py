"""A machine of containers through its agent: its images are brought here, attached and told."""

import asyncio
from pathlib import Path
from typing import Any

from godwit.testing import agents
from tests.unit.agent.machines.driving import M, scenario


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


def image(letter: str) -> dict[str, Any]:
    return {**agents.image(digest(letter)), "reference": letter}


def contained(*letters: str) -> dict[str, Any]:
    """Return an offer's part of containers that run these images, and are called like them."""
    images = tuple(image(letter) for letter in letters)
    return {
        "config": {
            "containers": [
                {"name": f"{letter}{at}", "image": letter} for at, letter in enumerate(letters)
            ]
        },
        "image": images[0],
        "container_images": images,
    }


def test_images_are_here_once_each_and_on_disks_of_their_own() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M, **contained("a", "b", "a", "c"))
        assert await agent.rest(M) == "started"
        assert host.world.images == {digest("a"), digest("b"), digest("c")}
        plan = host.world.vms[M].plan
        assert plan.image == Path("/images") / digest("a")
        assert plan.images == (Path("/images") / digest("b"), Path("/images") / digest("c"))
        assert plan.hardware.disks == ("image1", "image2")
        told = {one.name: one.image for one in plan.run_spec.containers}
        assert told == {"a0": "root", "b1": "image1", "a2": "root", "c3": "image2"}
        assert plan.run_spec.process is None
        assert plan.run_spec.hosts[-1].names == ("a0", "b1", "a2", "c3")
        assert len(driver.machine.container_configs) == 4

    scenario(body)


def test_a_container_whose_image_is_gone_keeps_the_machine_from_starting() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M, **contained("a", "0"))
        assert await agent.rest(M) == "failed"
        assert "no image 0 in the registry" in driver.machine.sentence

    scenario(body)


def test_only_the_machines_own_image_is_asked_for_with_its_token() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M, **contained("a", "b", "b"), pull_token="first")
        assert await agent.rest(M) == "started"
        assert host.world.pulled_with == ["first", None]

    scenario(body)


def test_a_new_version_has_its_containers_images_before_the_old_one_stops() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        assert await agent.rest(M) == "started"
        await agent.ask(M, "update", update=agents.update(M, "01W", **contained("a", "b")))
        assert await agent.rest(M) == "started"
        assert {digest("a"), digest("b")} <= host.world.images
        assert host.world.vms[M].plan.hardware.disks == ("image1",)

    scenario(body)


def test_what_containers_do_is_known_while_the_machine_runs() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M, **contained("a", "b"))
        assert await agent.rest(M) == "started"
        async with asyncio.timeout(60):
            while not agent.host.standings.of(M):
                await host.clock.sleep(0.1)
        told = {one.name: one.state for one in agent.host.standings.of(M)}
        assert told == {"a0": "started", "b1": "started"}
        await agent.ask(M, "stop")
        assert await agent.rest(M) == "stopped"
        assert agent.host.standings.of(M) == ()
        assert driver.machine.state == "stopped"

    scenario(body)
