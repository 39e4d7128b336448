"""The mirror over real buses: cut, kill, lose and forge; what a host owns arrives, once."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest

from godwit.bus.connection import Connection
from godwit.wire import facts
from tests.host.conftest import until
from tests.host.regions_lab import Lab, host, machine, mirroring, regions, speaking


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with regions(tmp_path, "fra", "iad", "syd") as made:
        yield made


async def mirrored(link: Connection, region: str) -> dict[str, dict]:
    """Return a region's records in the mirror, by key."""
    try:
        info = await link.jetstream.stream_info("MIRROR", subjects_filter=f"mirror.{region}.>")
        found = {}
        for subject in info.state.subjects or {}:
            message = await link.jetstream.get_last_msg("MIRROR", subject)
            found[subject.rpartition(".")[2]] = json.loads(message.data or b"{}")
    except nats.js.errors.NotFoundError:
        return {}
    return found


async def becomes(link: Connection, region: str, expected: dict[str, int]) -> None:
    """Wait until the mirror has these revisions of a region's records, and no others."""
    async with asyncio.timeout(60):
        while True:
            found = await mirrored(link, region)
            if {key: record["revision"] for key, record in found.items()} == expected:
                return
            await asyncio.sleep(0.05)


async def test_what_hosts_own_is_in_the_mirror_of_every_other_region(lab: Lab) -> None:
    async with (
        mirroring(lab, "iad"),
        mirroring(lab, "syd"),
        speaking(lab, "fra") as fra,
        lab.connected("iad", "catalog") as iad,
        lab.connected("syd", "catalog") as syd,
    ):
        who = lab.host("fra")
        await fra.publish(host("fra", who))
        await fra.publish(machine("fra", who, "m1", 1))
        await fra.publish(machine("fra", who, "m1", 2))
        for link in (iad, syd):
            await becomes(link, "fra", {who: 1, "m1": 2})
        await fra.publish(machine("fra", who, "m1", 3, deleted=True))
        for link in (iad, syd):
            await becomes(link, "fra", {who: 1, "m1": 3})
            assert (await mirrored(link, "fra"))["m1"]["deleted"]


async def test_a_region_cut_off_keeps_its_mirror_and_gets_the_rest_when_it_is_back(
    lab: Lab,
) -> None:
    who = lab.host("fra")
    async with (
        mirroring(lab, "iad"),
        speaking(lab, "syd") as syd,
        lab.connected("iad", "catalog") as iad,
    ):
        async with speaking(lab, "fra") as fra:
            for name in ("stays", "changes", "goes"):
                await fra.publish(machine("fra", who, name, 1))
            await becomes(iad, "fra", {"stays": 1, "changes": 1, "goes": 1})
        await lab.buses["fra"].kill()
        # The others go on, and nothing of the region that is away is lost.
        await syd.publish(machine("syd", lab.host("syd"), "m2", 1))
        await becomes(iad, "syd", {"m2": 1})
        await becomes(iad, "fra", {"stays": 1, "changes": 1, "goes": 1})
        await lab.buses["fra"].start()
        async with speaking(lab, "fra") as fra:
            await fra.publish(machine("fra", who, "changes", 2))
            await fra.publish(machine("fra", who, "goes", 2, deleted=True))
            await fra.publish(machine("fra", who, "comes", 1))
            await becomes(iad, "fra", {"stays": 1, "changes": 2, "goes": 2, "comes": 1})


async def test_its_own_bus_killed_under_it_the_mirror_goes_on(lab: Lab) -> None:
    who = lab.host("fra")
    async with mirroring(lab, "iad"), speaking(lab, "fra") as fra:
        for revision in range(1, 4):
            await fra.publish(machine("fra", who, "m1", revision))
            await lab.buses["iad"].kill()
            await fra.publish(machine("fra", who, "m2", revision))
            await lab.buses["iad"].start()
            async with lab.connected("iad", "catalog") as iad:
                await becomes(iad, "fra", {"m1": revision, "m2": revision})


async def test_a_mirror_that_lost_its_content_is_filled_again(lab: Lab) -> None:
    async with mirroring(lab, "iad"), speaking(lab, "fra") as fra:
        await fra.publish(machine("fra", lab.host("fra"), "m1", 1))
        async with lab.connected("iad", "catalog") as iad:
            await becomes(iad, "fra", {"m1": 1})
        await lab.buses["iad"].kill()
        shutil.rmtree(lab.directory / "iad" / "bus")
        await lab.buses["iad"].start()
        async with lab.connected("iad", "catalog") as iad:
            await becomes(iad, "fra", {"m1": 1})


async def test_two_that_keep_one_mirror_do_no_harm(lab: Lab) -> None:
    who = lab.host("fra")
    async with (
        mirroring(lab, "iad"),
        mirroring(lab, "iad"),
        speaking(lab, "fra") as fra,
        lab.connected("iad", "catalog") as iad,
    ):
        for revision in range(1, 30):
            for name in ("m1", "m2", "m3"):
                await fra.publish(machine("fra", who, name, revision))
        await becomes(iad, "fra", {"m1": 29, "m2": 29, "m3": 29})


async def test_a_host_cannot_tell_of_another_region(lab: Lab) -> None:
    who = lab.host("fra")
    async with (
        mirroring(lab, "iad") as kept,
        speaking(lab, "fra") as fra,
        lab.connected("iad", "catalog") as iad,
    ):
        forged = machine("syd", who, "m1", 9).model_dump_json().encode()
        link = fra._connection
        await link.jetstream.publish(f"facts.fra.machine.{who}.m1", forged)
        await fra.publish(machine("fra", who, "m2", 1))
        await becomes(iad, "fra", {"m2": 1})
        assert await mirrored(iad, "syd") == {}
        assert kept.skipped == 1


async def test_what_a_whole_reading_does_not_tell_is_buried(lab: Lab) -> None:
    who = lab.host("fra")
    async with speaking(lab, "fra") as fra, lab.connected("iad", "catalog") as iad:
        await fra.publish(host("fra", who))
        for name in ("m1", "m2"):
            await fra.publish(machine("fra", who, name, 1))
        async with mirroring(lab, "iad"):
            await becomes(iad, "fra", {who: 1, "m1": 1, "m2": 1})
        # Its tombstone came and passed while nobody kept the mirror.
        async with lab.connected("fra", "control") as control:
            subject = facts.subject("fra", machine("fra", who, "m2", 1))
            await control.jetstream.purge_stream("FACTS_fra", subject=subject)
        async with mirroring(lab, "iad", settling_s=0.5):
            async with asyncio.timeout(60):
                while not (await mirrored(iad, "fra"))["m2"].get("deleted"):
                    await asyncio.sleep(0.05)
        assert not (await mirrored(iad, "fra"))["m1"]["deleted"]


async def test_who_keeps_a_mirror_can_write_nothing_else(lab: Lab) -> None:
    async with mirroring(lab, "iad"), lab.connected("iad", "catalog") as home:
        await until(lambda: home.up)
        async with lab.connected("fra", "catalog", of="iad") as abroad:
            for link, subject in (
                (home, f"mirror.iad.machine.{lab.host('iad')}.m1"),
                (home, f"facts.iad.machine.{lab.host('iad')}.m1"),
                (home, "facts.iad.app.control.shop"),
                (home, f"godwit.host.{lab.host('iad')}.rpc.machine.stop"),
                (abroad, "mirror.syd.machine.x.m1"),
                (abroad, f"facts.fra.machine.{lab.host('fra')}.m1"),
            ):
                with pytest.raises(nats.errors.TimeoutError):
                    await link.client.request(subject, b"{}", timeout=0.3)
