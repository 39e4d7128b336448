"""`godwit images list|prune` and `godwit orgs show`, against real control and a simulated host."""

import asyncio
import io
import json
from typing import Any

import pytest

from godwit.cli import program, registry
from godwit.cli.output import Output
from godwit.cli.session import Session
from godwit.cmd.cli import HOST_ENTRIES
from godwit.wire import host_images
from tests.unit.cli.conftest import Served

HELD, FREE = (f"sha256:{letter * 64}" for letter in "ab")


@pytest.fixture
def stocked(served: Served) -> Served:
    served.world.host.inventory = host_images.Inventory(
        images=(
            host_images.HostImage(
                digest=FREE, reference="nginx:1", size_bytes=3 << 20, used_at_ms=1
            ),
            host_images.HostImage(
                digest=HELD,
                reference="shop:1",
                size_bytes=5 << 20,
                used_at_ms=2,
                machines=2,
                held="in use",
            ),
        ),
        total_bytes=100 << 20,
        free_bytes=40 << 20,
        pins_known=True,
    )
    return served


async def images(served: Served, *arguments: str) -> tuple[int, str, str]:
    """Run `godwit images …`, which is a command of hosts."""
    stdout, stderr = io.StringIO(), io.StringIO()
    session = Session(
        environ=served.environ, directory=served.directory, out=Output(stdout, stderr)
    )
    entries = (*registry.ENTRIES, *HOST_ENTRIES)
    code = await asyncio.to_thread(program.run, ("images", *arguments), session, entries)
    return code, stdout.getvalue(), stderr.getvalue()


async def json_of(served: Served, *arguments: str) -> dict[str, Any]:
    code, stdout, stderr = await images(served, *arguments, "--json")
    assert code == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


async def test_images_are_listed_with_what_holds_them(stocked: Served) -> None:
    code, stdout, stderr = await images(stocked, "list")
    assert code == 0
    assert [line.split()[0] for line in stdout.splitlines()[1:]] == [FREE[:19], HELD[:19]]
    assert "in use" in stdout.splitlines()[2]
    assert "40 of 100 MB are free" in stderr
    found = await json_of(stocked, "list")
    assert [one["held"] for one in found["images"]] == ["", "in use"]
    assert found["host_id"] == stocked.world.host.host_id


async def test_a_prune_removes_what_nothing_holds_and_a_dry_run_nothing(stocked: Served) -> None:
    dry = await json_of(stocked, "prune", "--dry-run")
    assert [one["digest"] for one in dry["removed"]] == [FREE]
    assert len(stocked.world.host.inventory.images) == 2
    code, stdout, stderr = await images(stocked, "prune")
    assert code == 0
    assert FREE[:19] in stdout
    assert "1 images removed, 3 MB" in stderr
    assert [one.digest for one in stocked.world.host.inventory.images] == [HELD]


async def test_a_host_that_is_not_there_is_said_so(stocked: Served) -> None:
    code, _, stderr = await images(stocked, "list", "--host", "ffffffff")
    assert code != 0
    assert "there is no host 'ffffffff'" in stderr


async def test_an_organization_is_shown_with_what_it_takes(stocked: Served) -> None:
    org = await stocked.world.organization("acme")
    await stocked.world.app("shop", "acme")
    stocked.world.warehouse.sizes = {"shop": 7 << 20}
    code, stdout, _ = await stocked("orgs", "show", "acme")
    assert code == 0
    assert "7 of 51200 MB" in stdout
    shown = await stocked.json("orgs", "show", "acme")
    assert (shown["id"], shown["disk"]["registry_bytes"]) == (org.id, 7 << 20)
