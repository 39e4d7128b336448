"""The client against the fake: every verb in every state, refusals, silence, ends, planted links."""

import asyncio
from pathlib import Path

import pytest

from godwit.agent.vmm.firecracker import api, bodies, config
from godwit.base import errors
from godwit.testing.firecracker import FakeFirecracker
from tests.unit.agent.vmm.firecracker.test_config import RATES, guest

SAVE = bodies.SnapshotCreate(snapshot_path="/state", mem_file_path="/memory")
VERBS = {
    "configure": lambda asked: asked.configure(
        config.cold_boot(guest(max_memory_mb=512), "gw5", RATES)
    ),
    "start": lambda asked: asked.start(),
    "pause": lambda asked: asked.pause(),
    "resume": lambda asked: asked.resume(),
    "save": lambda asked: asked.save(SAVE),
    "load": lambda asked: asked.load(config.restore("gw9")),
    "set_drive": lambda asked: asked.set_drive(config.rates_of_a_clone(RATES)[0][1]),
    "set_network": lambda asked: asked.set_network(config.rates_of_a_clone(RATES)[1]),
    "set_balloon": lambda asked: asked.set_balloon(64),
    "balloon_stats": lambda asked: asked.balloon_stats(),
    "info": lambda asked: asked.info(),
    "machine_config": lambda asked: asked.machine_config(),
}
ALWAYS = {"info", "machine_config"}
STARTED = {"pause", "resume", "set_drive", "set_network", "set_balloon", "balloon_stats"}
LEGAL = {
    "fresh": ALWAYS | {"configure", "load"},
    "configured": ALWAYS | {"configure", "start"},
    "running": ALWAYS | STARTED,
    "paused": ALWAYS | STARTED | {"save"},
}
"""What may be asked when; whatever is not here must be refused."""


def furnish(folder: Path) -> None:
    for name in ("kernel", "initramfs", "root", "scratch"):
        (folder / name).write_bytes(b"x")


async def bring(asked: api.Api, state: str) -> None:
    if state != "fresh":
        await VERBS["configure"](asked)
    if state in ("running", "paused"):
        await asked.start()
    if state == "paused":
        await asked.pause()


async def saved_in(folder: Path) -> None:
    """Leave a saved machine in a folder."""
    furnish(folder)
    async with FakeFirecracker(folder) as fake, api.Api.open(fake.socket) as asked:
        await bring(asked, "paused")
        await asked.save(SAVE)
    fake.socket.unlink()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", LEGAL)
async def test_every_verb_in_every_state_is_done_or_refused(tmp_path, state, verb):
    await saved_in(tmp_path)
    async with FakeFirecracker(tmp_path) as fake, api.Api.open(fake.socket) as asked:
        await bring(asked, state)
        before = fake.state
        if verb in LEGAL[state]:
            await VERBS[verb](asked)
        else:
            with pytest.raises(api.Fault) as caught:
                await VERBS[verb](asked)
            assert caught.value.status == 400
            assert str(caught.value).startswith("Firecracker refused ")
            assert fake.state == before
            no_kernel = (state, verb) == ("fresh", "start")
            running = (state, verb) == ("running", "save")
            assert isinstance(caught.value, api.WrongState) != (no_kernel or running)


async def test_a_machines_life_passes_through_its_states(tmp_path):
    await saved_in(tmp_path)
    async with FakeFirecracker(tmp_path) as fake, api.Api.open(fake.socket) as asked:
        assert (await asked.info()).state == "Not started"
        await asked.load(config.restore("gw9"))
        assert (await asked.info()).state == "Paused"
        assert fake.told["network-interfaces"]["net"]["host_dev_name"] == "gw9"
        assert fake.loaded_memory == tmp_path / "memory"
        await asked.resume()
        await asked.resume()
        assert (await asked.info()).state == "Running"
        await asked.set_balloon(100)
        stats = await asked.balloon_stats()
        assert (stats.target_mib, stats.actual_mib) == (100, 100)


async def test_a_refused_load_is_the_end_of_the_process(tmp_path):
    furnish(tmp_path)
    async with FakeFirecracker(tmp_path) as fake, api.Api.open(fake.socket) as asked:
        with pytest.raises(api.Fault, match="Failed to open snapshot file"):
            await asked.load(config.restore("gw9"))
        async with asyncio.timeout(60):
            await fake.ended.wait()
        with pytest.raises(api.Gone):
            await asked.info()
    assert not await api.listens(fake.socket)


async def test_a_refusal_on_demand_carries_its_words(tmp_path):
    async with FakeFirecracker(tmp_path) as fake, api.Api.open(fake.socket) as asked:
        fake.refusals["PUT /machine-config"] = "the moon is wrong"
        with pytest.raises(api.Fault, match="refused PUT /machine-config: the moon is wrong"):
            await VERBS["configure"](asked)


async def test_a_process_that_is_silent_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "ANSWER_S", 0.05)
    async with FakeFirecracker(tmp_path) as fake, api.Api.open(fake.socket) as asked:
        fake.hanging.add("GET /")
        with pytest.raises(errors.Failure) as caught:
            await asked.info()
        assert caught.value.code == "deadline_exceeded"


async def test_nonsense_instead_of_an_answer_is_that_it_went_away(tmp_path):
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xff\xfe not http\r\n\r\n")
        writer.close()

    path = tmp_path / "api.sock"
    server = await asyncio.start_unix_server(rude, str(path))
    async with api.Api.open(path) as asked:
        with pytest.raises(api.Gone):
            await asked.info()
    server.close()


async def test_only_a_socket_is_connected_to(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with FakeFirecracker(elsewhere) as fake:
        (tmp_path / "planted").symlink_to(fake.socket)
        (tmp_path / "file").write_text("x")
        for name in ("planted", "file", "missing"):
            assert not await api.listens(tmp_path / name)
            with pytest.raises(api.Gone):
                async with api.Api.open(tmp_path / name):
                    raise AssertionError(name)


async def test_a_long_path_is_no_obstacle(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    short = tmp_path / "s"
    short.symlink_to(folder)
    async with FakeFirecracker(short) as fake:
        assert await api.listens(folder / "api.sock")
        async with api.Api.open(folder / "api.sock") as asked:
            assert (await asked.info()).vmm_version == fake.version
