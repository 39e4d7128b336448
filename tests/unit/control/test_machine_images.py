"""The images of a machine: those of containers and files are asked for, and told when missing."""

import base64
import dataclasses
import json
from typing import Any

import pytest

from godwit.base import errors
from godwit.control import machine_images, machines
from godwit.wire import host_rpc
from tests.unit.control.conftest import Town

SIDE = {"name": "side", "image": "proxy:1"}
APP = {"name": "app", "image": "shop:2"}


async def made(town: Town, config: dict[str, Any]) -> host_rpc.Offer:
    wanted = machines.NewMachine(config=config)
    await machines.create(town.world.ctx, town.acme, "shop", wanted)
    return host_rpc.Offer.model_validate(town.world.host.asked[-1][1])


async def test_the_machine_itself_is_its_main_containers_image(town: Town) -> None:
    offer = await made(town, {"containers": [SIDE, APP]})
    assert [image.reference for image in offer.container_images] == ["proxy:1", "shop:2"]
    assert offer.image.reference == "shop:2"
    assert offer.config == {"containers": [SIDE, APP]}
    first = await made(town, {"containers": [SIDE, {**APP, "name": "web"}]})
    assert first.image.reference == "proxy:1"


async def test_or_the_one_its_config_names(town: Town) -> None:
    offer = await made(town, {"image": "alpine:3", "containers": [SIDE]})
    assert offer.image.reference == "alpine:3"
    assert [image.reference for image in offer.container_images] == ["proxy:1"]


async def test_an_image_that_several_run_is_asked_for_once(town: Town) -> None:
    await made(town, {"containers": [SIDE, {**SIDE, "name": "twin"}]})
    asked = [reference for reference, _ in town.world.ctx.images.asked]
    assert asked.count("proxy:1") == 1


async def test_an_image_that_is_not_there_is_told_with_its_container(town: Town) -> None:
    with pytest.raises(errors.Failure) as caught:
        await made(town, {"containers": [APP, {**SIDE, "image": "missing:1"}]})
    assert caught.value.code == "manifest_unknown"
    assert caught.value.message == "container side: missing:1 is not there"
    assert town.world.host.asked == []


async def test_images_of_volumes_come_after_those_of_containers(town: Town) -> None:
    volumes = [{"name": "tmp"}, {"name": "data", "image": "data:1"}]
    offer = await made(town, {"containers": [SIDE, APP], "volumes": volumes})
    images = [image.reference for image in offer.container_images]
    assert images == ["proxy:1", "shop:2", "data:1"]
    volumes = [{"name": "data", "image": "missing:1"}]
    with pytest.raises(errors.Failure, match="volume data: missing:1 is"):
        await made(town, {"containers": [SIDE], "volumes": volumes})


async def test_no_more_images_than_a_machine_has_disks(town: Town) -> None:
    containers = [{"name": f"c{at}", "image": f"own:{at}"} for at in range(8)]
    offer = await made(town, {"image": "main:1", "containers": containers})
    assert len(offer.container_images) == 8
    volumes = [{"name": "data", "image": "data:1"}]
    with pytest.raises(errors.Failure, match="have 9 images beside the machine's own, at most 8"):
        await made(town, {"image": "main:1", "containers": containers, "volumes": volumes})


async def test_an_update_has_the_images_of_its_containers(town: Town) -> None:
    wanted = machines.NewMachine(config={"image": "nginx:1"})
    machine = await machines.create(town.world.ctx, town.acme, "shop", wanted)
    version = machines.NewVersion(config={"containers": [SIDE, APP]})
    machine_id = machine.view.machine_id
    await machines.update(town.world.ctx, town.acme, "shop", machine_id, version)
    asked = [body for verb, body in town.world.host.asked if verb == "machine.update"]
    update = host_rpc.Update.model_validate(asked[-1])
    assert [image.reference for image in update.container_images] == ["proxy:1", "shop:2"]
    assert update.image.reference == "shop:2"


async def test_secrets_of_containers_have_to_be_there(town: Town) -> None:
    wants = {**SIDE, "secrets": [{"env_var": "KEY", "name": "NOPE"}]}
    with pytest.raises(errors.Failure, match="has no secret NOPE"):
        await made(town, {"containers": [wants]})
    file = {**SIDE, "files": [{"guest_path": "/k", "secret_name": "NOPE"}]}
    with pytest.raises(errors.Failure, match="has no secret NOPE"):
        await made(town, {"containers": [file]})


def of_image(reference: str, path: str = "/image.json") -> dict[str, str]:
    return {"guest_path": path, "image_config": reference}


async def test_a_file_holds_the_config_of_an_image(town: Town) -> None:
    config = {
        "containers": [{**SIDE, "files": [of_image("other:1")]}, APP],
        "files": [of_image("shop:2"), of_image("other:1", "/other.json")],
    }
    offer = await made(town, config)
    assert offer.config == config
    said = {name: json.loads(base64.b64decode(text)) for name, text in offer.image_files.items()}
    assert said == {
        "shop:2": {"os": "linux", "comment": "shop:2"},
        "other:1": {"os": "linux", "comment": "other:1"},
    }


async def test_an_update_has_the_files_of_its_images(town: Town) -> None:
    wanted = machines.NewMachine(config={"image": "nginx:1"})
    machine = await machines.create(town.world.ctx, town.acme, "shop", wanted)
    version = machines.NewVersion(config={"image": "nginx:1", "files": [of_image("other:1")]})
    await machines.update(town.world.ctx, town.acme, "shop", machine.view.machine_id, version)
    asked = [body for verb, body in town.world.host.asked if verb == "machine.update"]
    assert list(asked[-1]["image_files"]) == ["other:1"]


async def test_a_file_of_an_image_that_is_not_there(town: Town) -> None:
    with pytest.raises(errors.Failure) as caught:
        await made(town, {"image": "nginx:1", "files": [of_image("missing:1")]})
    assert caught.value.code == "manifest_unknown"
    assert caught.value.message == "files with image_config missing:1: missing:1 is not there"
    assert town.world.host.asked == []


async def test_files_of_another_organizations_image_are_refused(town: Town) -> None:
    await town.world.app("secret", "rival")
    theirs = f"{town.world.ctx.options.registry}/secret:v1"
    with pytest.raises(errors.Failure) as caught:
        await made(town, {"image": "nginx:1", "files": [of_image(theirs)]})
    assert caught.value.code == "permission_denied"


async def test_files_of_more_images_than_a_request_holds_are_refused(town: Town) -> None:
    files = [of_image(f"other:{at}", f"/{at}") for at in range(5)]
    with pytest.raises(errors.Failure, match="5 images as image_config, at most 4 are taken"):
        await made(town, {"image": "nginx:1", "files": files})


async def test_a_config_that_is_too_large_for_a_file_is_refused(town: Town) -> None:
    class Wordy:
        resolve = town.world.images.resolve

        async def config_document(self, reference: str, token: str | None) -> bytes:
            return b" " * 24_577

    ctx = dataclasses.replace(town.world.ctx, images=Wordy())
    wanted = machines.NewMachine(config={"image": "nginx:1", "files": [of_image("other:1")]})
    with pytest.raises(errors.Failure, match="has 24577 bytes, at most 24576 are taken"):
        await machines.create(ctx, town.acme, "shop", wanted)


DIGEST = "sha256:" + "ab" * 32
CONFIG = {"image": "shop:2"}


async def test_an_image_that_a_machine_was_made_of_is_not_asked_for_again(town: Town) -> None:
    """Its registry may be away with its host; a digest says all about an image."""
    ctx = town.world.ctx
    name = f"{ctx.options.registry}/shop:1"
    image = {"reference": name, "registry": ctx.options.registry, "repository": "shop"}
    machine = await machines.create(ctx, town.acme, "shop", machines.NewMachine(config=CONFIG))
    async with ctx.store.write() as rows:
        row = await rows.placements.get(machine.view.machine_id)
        app = await rows.apps.by_name("shop")
        assert row is not None
        assert row.view is not None
        assert app is not None
        shown = row.view | {"image": row.view["image"] | image | {"digest": DIGEST}}
        await rows.placements.record_view(row.machine_id, shown, ctx.clock.now_ms())
    before = len(ctx.images.asked)
    offer = await made(town, {"image": f"{name}@{DIGEST}"})
    assert (offer.image.digest, offer.image.reference) == (DIGEST, f"{name}@{DIGEST}")
    assert len(ctx.images.asked) == before
    other = "sha256:" + "cd" * 32
    for unknown in (
        name,
        f"{name}@{other}",
        f"{ctx.options.registry}/other@{DIGEST}",
        f"shop@{DIGEST}",
    ):
        assert await machine_images.known(ctx, app, unknown) is None
